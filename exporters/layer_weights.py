"""Which inputs of an operator are weights, and how it stores them.

For integers, the number that represents zero is an input of its own, one for all or one for each channel of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from exporters.constants import UncountableError
from exporters.encoding.values import Array, type_name

_BLOCKED = ("com.microsoft.nchwc",)

Sizes = Mapping[str, int]
"""The attributes of a node that are whole numbers."""


class UnpackedWeight(NamedTuple):
    """A weight in an order of its operator's own: its shape, how many elements are not zero, and their type."""

    shape: tuple[int, ...]
    active: int
    type: str


@dataclass(frozen=True)
class WeightInput:
    """An input of an operator that is a weight.

    Attributes:
        index: of the input.
        always: whether it is always a weight, and never what other layers compute.
        zero: index of the input with the integer that represents zero; None when 0 does.
        axis: of the weight, along which there may be one zero for each channel.
        unpack: reads a packed weight from the arrays of the node's inputs and its attributes; None for plain ones.
    """

    index: int
    always: bool = True
    zero: int | None = None
    axis: int = -1
    unpack: Callable[[Mapping[int, Array], Sizes], UnpackedWeight] | None = None


CHANNELS = "granet.channels"
"""A name among the sizes of a node, which no attribute has: how many output channels it has without padding."""


def blocked_channels(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """Return how many channels values in ONNX Runtime's blocks have without padding, by name, where the graph says it.

    That is where they leave the blocks, and before operators that keep the number of channels.
    """
    made = {name: node for node in nodes for name in node.output if node.domain in _BLOCKED}
    known: dict[str, int] = {}
    waiting = [
        (node.input[0], attribute.i)
        for node in made.values()
        for attribute in node.attribute
        if node.op_type == "ReorderOutput" and attribute.name == "channels" and attribute.i > 0 and node.input
    ]
    while waiting:
        name, channels = waiting.pop()
        if name in made and name not in known:
            known[name] = channels
            # A convolution keeps the channels of the sum that it adds to, its fourth input.
            same = made[name].input[3:4] if made[name].op_type == "Conv" else made[name].input[:1]
            waiting += [(source, channels) for source in same]
    return known


def find(domain: str, operator: str, inputs: int) -> tuple[WeightInput, ...]:
    """Return which of ``inputs`` inputs of an operator are weights; nothing for operators without weights."""
    if operator == "Einsum" and domain in _STANDARD:
        return tuple(WeightInput(index, always=False) for index in range(inputs))
    return next((table[operator] for domains, table in _TABLES if domain in domains and operator in table), ())


def _unpack_bits(packed: Array, bits: int) -> Array:
    """Return the elements along the last axis of bytes [..., n], the lowest bits first: [..., n * 8 / bits]."""
    if packed.dtype != np.uint8:
        raise UncountableError(f"packed weights of type {packed.dtype}")
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)


def _n_bits(given: Mapping[int, Array], sizes: Sizes) -> UnpackedWeight:
    """Read MatMulNBits: outputs [N] of blocks along the inputs [K], each with a zero of its own."""
    outputs, inputs = sizes.get("N", 0), sizes.get("K", 0)
    bits, block = sizes.get("bits", 4), sizes.get("block_size", 0)
    if bits not in (2, 4, 8):
        raise UncountableError(f"weights of {bits} bits")
    blocks = -(-inputs // block) if block > 0 else 0
    if min(outputs, inputs) < 1 or given[1].size * 8 != outputs * blocks * block * bits:
        raise ValueError(f"{given[1].size} bytes for {outputs} x {inputs} weights of {bits} bits in blocks of {block}")
    values = _unpack_bits(given[1].reshape(outputs, -1), bits)
    zeros = np.full((1, 1), 2 ** (bits - 1))
    if 3 in given:
        found = given[3].reshape(outputs, -1)
        found = _unpack_bits(found, bits) if found.dtype == np.uint8 else found
        if found.shape[1] < blocks:
            raise ValueError(f"zero points of shape {given[3].shape} for {outputs} x {blocks} blocks")
        zeros = found[:, :blocks, None]
    different = values.reshape(outputs, blocks, block) != zeros.reshape(-1, zeros.shape[1], 1)
    active = np.count_nonzero(different.reshape(outputs, -1)[:, :inputs])
    return UnpackedWeight((outputs, inputs), int(active), f"uint{bits}")


def _bnb4(given: Mapping[int, Array], sizes: Sizes) -> UnpackedWeight:
    """Read MatMulBnb4: a table's positions, the first in the high half of a byte; FP4 has zeros of both signs."""
    shape = sizes.get("N", 0), sizes.get("K", 0)
    count = math.prod(shape)
    if min(shape) < 1 or given[1].size != -(-count // 2):
        raise ValueError(f"{given[1].size} bytes for {shape} weights of 4 bits")
    values = _unpack_bits(given[1].reshape(-1, 1), 4)[:, ::-1].reshape(-1)[:count]
    normal = sizes.get("quant_type", 1) == 1
    active = np.count_nonzero(values != 7 if normal else values & 7)
    return UnpackedWeight(shape, int(active), "nf4" if normal else "fp4")


def _fp4(given: Mapping[int, Array], _: Sizes) -> UnpackedWeight:
    values = _unpack_bits(given[1], 4)
    return UnpackedWeight(values.shape, int(np.count_nonzero(values & 7)), "fp4")


def _blocked(given: Mapping[int, Array], sizes: Sizes) -> UnpackedWeight:
    """Read a convolution of ONNX Runtime's blocks of 8 or 16 channels: outputs, inputs, kernel, [inputs], outputs.

    Channels are padded with zeros to whole blocks. The file says how many there are of outputs that leave the blocks
    (``blocked_channels``); of others those at the end that have no weight and no bias are taken for padding.
    """
    weight = given[1]
    outputs, inputs, *kernel = weight.shape
    bias = given.get(2, np.zeros(outputs, weight.dtype))
    if bias.shape != (outputs,):
        raise ValueError(f"a bias of shape {bias.shape} for {outputs} channels")
    area, padding = math.prod(kernel), (0, 0)
    for block in (8, 16):
        if not weight.size or outputs % block:
            continue
        last = np.concatenate([weight.reshape(outputs // block, -1, block)[-1], bias[None, -block:]])
        padded_inputs = 0
        if inputs % block == 0 and sizes.get("group", 1) == 1:
            tail = weight.reshape(outputs // block, inputs // block, area, block, block)[:, -1]
            padded_inputs = _trailing_zeros(np.moveaxis(tail, 2, -1))
        padding = max(padding, (_trailing_zeros(last), padded_inputs), key=sum)
    shape = (min(sizes.get(CHANNELS, outputs - padding[0]), outputs), inputs - padding[1], *kernel)
    return UnpackedWeight(
        shape, int(np.count_nonzero(weight)), type_name(helper.np_dtype_to_tensor_dtype(weight.dtype))
    )


def _trailing_zeros(channels: Array) -> int:
    """Count the channels, along the last axis, at its end that have no number but zeros; all of them count as none."""
    used = np.flatnonzero(channels.reshape(-1, channels.shape[-1]).any(0))
    return int(channels.shape[-1] - 1 - used[-1]) if used.size else 0


def _blocks_of_q4(_given: Mapping[int, Array], _: Sizes) -> UnpackedWeight:
    raise UncountableError("MatMulFpQ4 keeps weights and scales in one block of bytes")


_STANDARD = ("", "ai.onnx")
_RUNTIME = ("com.microsoft",)
_KERNEL = (WeightInput(1),)
_EITHER = (WeightInput(1, always=False), WeightInput(0, always=False))
_RECURRENT = (WeightInput(1), WeightInput(2))

_COMMON: Mapping[str, tuple[WeightInput, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "DeformConv", "FusedConv"), _KERNEL),
    **dict.fromkeys(("Gemm", "FusedGemm"), (WeightInput(1), WeightInput(0, always=False))),
    **dict.fromkeys(("MatMul", "FusedMatMul"), _EITHER),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _RECURRENT),
    "ConvInteger": (WeightInput(1, zero=3, axis=0),),
    "MatMulInteger": (WeightInput(1, False, zero=3), WeightInput(0, False, zero=2, axis=-2)),
    "QLinearConv": (WeightInput(3, zero=5, axis=0),),
    "QLinearConvTranspose": (WeightInput(3, zero=5, axis=1),),
    "QLinearMatMul": (WeightInput(3, False, zero=5), WeightInput(0, False, zero=2, axis=-2)),
}

_OF_RUNTIME: Mapping[str, tuple[WeightInput, ...]] = {
    **_COMMON,
    **dict.fromkeys(("NhwcConv", "NhwcFusedConv", "ConvTransposeWithDynamicPads", "WordConvEmbedding"), _KERNEL),
    **dict.fromkeys(("CausalConvWithState", "VarlenCausalConvWithState"), _KERNEL),
    **dict.fromkeys(("TransposeMatMul", "FusedMatMulActivation", "SparseToDenseMatMul", "MatMulInteger16"), _EITHER),
    **dict.fromkeys(("GemmFastGelu", "MatMulBlockQuantizedFp8Weight"), _KERNEL),
    "GemmFloat8": _EITHER,
    **dict.fromkeys(("Attention", "PackedAttention", "DecoderMaskedSelfAttention"), _KERNEL),
    "LongformerAttention": (WeightInput(1), WeightInput(4)),
    "DecoderAttention": (WeightInput(2), WeightInput(3)),
    "GatedRelativePositionBias": (WeightInput(3),),
    "MoE": (WeightInput(2), WeightInput(4), WeightInput(6, always=False)),
    "AttnLSTM": (WeightInput(1), WeightInput(2), *(WeightInput(index, always=False) for index in (8, 9, 13))),
    "MatMulIntegerToFloat": (WeightInput(1, False, zero=5), WeightInput(0, False, zero=4, axis=-2)),
    "DynamicQuantizeMatMul": (WeightInput(1, False, zero=3),),
    "DynamicQuantizeLSTM": (WeightInput(1, zero=9, axis=0), WeightInput(2, zero=11, axis=0)),
    "QGemm": (WeightInput(3, zero=5), WeightInput(0, False, zero=2)),
    "QAttention": (WeightInput(1, zero=7),),
    "QOrderedMatMul": (WeightInput(2),),
    "QOrderedAttention": tuple(map(WeightInput, (5, 6, 7))),
    "QOrderedLongformerAttention": (WeightInput(2), WeightInput(8)),
    "MatMulNBits": (WeightInput(1, unpack=_n_bits),),
    "MatMulBnb4": (WeightInput(1, unpack=_bnb4),),
    "MatMulBlockQuantizedFp4Weight": (WeightInput(1, unpack=_fp4),),
    "MatMulFpQ4": (WeightInput(1, unpack=_blocks_of_q4),),
}

_TABLES = (
    (_STANDARD, _COMMON),
    (_RUNTIME, _OF_RUNTIME),
    (_BLOCKED, {"Conv": (WeightInput(1, unpack=_blocked),)}),
    (("com.ms.internal.nhwc", "com.microsoft.nhwc"), _COMMON),
)
