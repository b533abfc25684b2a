"""Encode the dense weights of a model: emit decoder nodes in place of initializers, and the functions they call."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.encoding import choose, coo, decoder_functions, encodable, node_builder
from exporters.encoding.decoder_functions import DOMAIN, LAYOUTS, Format
from exporters.encoding.node_builder import COO, PLAIN
from exporters.encoding.values import PRECISIONS, StoredValues, store, type_name
from exporters.graphs import copy_without, field_bytes, opset, value_names
from granet.errors import ModelError, UnknownNameError

ENCODINGS = ("auto", "gaps8", "gaps4", "bitmask", "coo", "dense")
"""What users can ask for; ``auto`` takes the smallest of all but coo."""

_FUNCTIONS_IR = 8
"""The first version of the format in which a model can have functions."""


@dataclass(frozen=True, kw_only=True)
class EncodedTensor:
    """How one tensor is stored.

    Attributes:
        name: of the initializer, and now of the value that replaces it.
        parameters: how many weights it has.
        active: how many of them are not zero as stored.
        encoding: gaps8, gaps4, bitmask, coo or dense.
        precision: of the stored values: fp32, fp16 or int8; None for a tensor that is ``kept``.
        bytes: what it takes in the file, its node and all names included.
        limit_bytes: the least it takes in any encoding that knows nothing but the density d: H(d) bits for each
            weight, and the values that are active, with their scales.
        vanished: how many weights are not zero, but are in this precision.
        kept: why it cannot be encoded.
    """

    name: str
    parameters: int
    active: int
    encoding: str
    precision: str | None
    bytes: int
    limit_bytes: float
    vanished: int = 0
    kept: str | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A model with encoded weights.

    Attributes:
        model: computes what the original does, with weights rounded to the precision.
        tensors: those that were to be encoded, in the order of the graph.
        shared_bytes: what decoders take.
        remarks: sentences that the user should know.
    """

    model: onnx.ModelProto
    tensors: tuple[EncodedTensor, ...]
    shared_bytes: int
    remarks: tuple[str, ...]

    @property
    def encodings(self) -> dict[str, str]:
        """For each tensor, how it is stored."""
        return {tensor.name: tensor.encoding for tensor in self.tensors}


def encode(
    model: onnx.ModelProto, *, encoding: str, precision: str, scope: Collection[str], uint4: bool = True
) -> Encoded:
    """Return a copy of ``model`` with some of its initializers encoded.

    Weights of zero are not stored, whatever their sign, and become +0.0.

    Args:
        model: with the data of all its tensors.
        encoding: one of ``ENCODINGS``. ``auto`` makes the file as small as possible, except that a much faster decoder
            may cost a hundredth of a tensor, and leaves tensors as they are that no encoding makes smaller. Any other
            is used wherever it is possible.
        precision: of stored values, one of ``PRECISIONS``.
        uint4: whether codes of four bits may be stored as UINT4 where the model's version has it, which custom
            operators of ONNX Runtime cannot read; else two in a byte.
        scope: names of initializers of the graph. Those that cannot be encoded stay as they are; the result says why.

    Raises:
        UnknownNameError: no such encoding or precision.
        ModelError: a weight that the precision cannot represent, a name that is not in the graph, or a model of a
            version whose operators cannot decode.
    """
    for option, name, known in (("encoding", encoding, ENCODINGS), ("precision", precision, PRECISIONS)):
        if name not in known:
            raise UnknownNameError(option, name, known)
    obstacles = encodable.obstacles(model.graph, scope)
    axes = encodable.channel_axes(model.graph)
    weights = {
        tensor.name: store(tensor, precision, axes.get(tensor.name, 0))
        for tensor in model.graph.initializer
        if tensor.name in obstacles and obstacles[tensor.name] is None
    }
    chosen: dict[str, str] = {}
    for format in {weight.format for weight in weights.values()}:  # no two of which share decoders
        alike = {name: weight for name, weight in weights.items() if weight.format == format}
        chosen |= _choose(model, alike, format, encoding, uint4=uint4)
    return _assemble(model, weights, chosen, obstacles)


def _choose(
    model: onnx.ModelProto, weights: Mapping[str, StoredValues], format: Format, encoding: str, *, uint4: bool
) -> dict[str, str]:
    """The layout of each of the weights, which have one format."""
    allowed = _allowed(model, format, encoding, uint4=uint4)
    if len(allowed) == 1:
        return dict.fromkeys(weights, allowed[0])
    costs = [{layout: _cost(layout, weight) for layout in allowed} for weight in weights.values()]
    shared = {
        layout: field_bytes(decoder_functions.function(name, opset(model)))
        for layout in allowed
        if (name := node_builder.decoder(layout, format)) is not None
    }
    return dict(zip(weights, choose.smallest(costs, shared), strict=True))


def _allowed(model: onnx.ModelProto, format: Format, encoding: str, *, uint4: bool) -> list[str]:
    """The layouts that weights of a format may have, the fastest to decode first.

    Raises:
        ModelError: all of them need operators that the model's version lacks.
    """
    if encoding == "coo":
        allowed = [COO]
    else:
        uint4 &= opset(model) >= decoder_functions.UINT4_OPSET and model.ir_version >= decoder_functions.UINT4_IR
        left_out = {"Gaps4Packed" if uint4 else "Gaps4", *(["Dense"] if format.stored == format.weight else [])}
        allowed = [name for name in LAYOUTS if encoding in ("auto", LAYOUTS[name].encoding) and name not in left_out]
    if opset(model) < decoder_functions.OPSET and any(node_builder.decoder(name, format) for name in allowed):
        raise ModelError(
            "the operators of this model's version cannot decode weights",
            where="opset",
            got=opset(model),
            expected=f"{decoder_functions.OPSET} or later",
            remedy="export it again with a newer opset",
        )
    return [PLAIN, *allowed] if encoding == "auto" or not allowed else allowed


def _cost(layout: str, weight: StoredValues) -> int:
    """The bytes of a weight, and a hundredth more for a slow decoder: it has to be worth it."""
    size = int(node_builder.build(layout, weight, ()).ByteSize())
    return size if layout == PLAIN or LAYOUTS[layout].quick else size + size // 100


def _assemble(
    model: onnx.ModelProto,
    weights: Mapping[str, StoredValues],
    chosen: Mapping[str, str],
    obstacles: Mapping[str, str | None],
) -> Encoded:
    taken = value_names(model)
    encoded = copy_without(model, "initializer", "node")
    tensors = []
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            weight, layout = weights[tensor.name], chosen[tensor.name]
            built = node_builder.build(layout, weight, taken)
            encoded.graph.MergeFrom(built)
            tensors.append(_describe(layout, weight, int(built.ByteSize())))
        else:
            encoded.graph.initializer.append(tensor)
            if tensor.name in obstacles:
                tensors.append(_describe_kept(tensor, obstacles[tensor.name]))
    encoded.graph.node.extend(model.graph.node)  # behind the decoders of their weights
    functions = {node_builder.decoder(layout, weights[name].format) for name, layout in chosen.items()}
    return Encoded(
        model=encoded,
        tensors=tuple(tensors),
        shared_bytes=_add_functions_(encoded, sorted(filter(None, functions))),
        remarks=tuple(_remarks(tensors)),
    )


def _add_functions_(model: onnx.ModelProto, wanted: Iterable[str]) -> int:
    """Add the decoders, in place, and return what they take."""
    before = int(model.ByteSize())
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    for name in wanted:
        model.ir_version = max(model.ir_version, _FUNCTIONS_IR)
        if DOMAIN not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, decoder_functions.VERSION))
        if name not in present:
            model.functions.append(decoder_functions.function(name, opset(model)))
    return int(model.ByteSize()) - before


def _describe(layout: str, weight: StoredValues, size: int) -> EncodedTensor:
    if layout == PLAIN:  # which stores the initializer itself
        weight = store(weight.tensor, "fp32", 0)
    values = weight.values
    active = int(np.count_nonzero(values))
    density = active / values.size
    entropy = -sum(share * math.log2(share) for share in (density, 1 - density) if share)
    scales = 0 if weight.scales is None else weight.scales.nbytes
    return EncodedTensor(
        name=weight.tensor.name,
        parameters=values.size,
        active=active,
        encoding={PLAIN: "dense", COO: "coo"}.get(layout) or LAYOUTS[layout].encoding,
        precision=type_name(weight.format.stored),
        bytes=size,
        limit_bytes=entropy * values.size / 8 + active * values.itemsize + scales,
        vanished=weight.vanished,
    )


def _describe_kept(tensor: TensorProto, reason: str | None) -> EncodedTensor:
    size, taken = math.prod(tensor.dims), field_bytes(tensor)
    return EncodedTensor(
        name=tensor.name,
        parameters=size,
        active=size,
        encoding="dense",
        precision=None,
        bytes=taken,
        limit_bytes=taken,
        kept=reason,
    )


def _remarks(tensors: Sequence[EncodedTensor]) -> Iterator[str]:
    if any(tensor.encoding == "coo" for tensor in tensors):
        yield coo.CAVEAT
    vanished = dict.fromkeys(PRECISIONS, 0)
    for tensor in tensors:
        if tensor.precision is not None:
            vanished[tensor.precision] += tensor.vanished
        if tensor.kept is not None:
            yield f"{tensor.name} stays as it is: {tensor.kept}"
    for precision, count in vanished.items():
        if count:
            yield f"{count:,} weights are too small for {precision} and become zero"
