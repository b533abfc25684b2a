"""Decoders: model-local functions of standard operators that compute a weight from what is stored of it.

A name is a layout and a suffix. The layout says where the values belong (``docs/onnx-encodings.md``), the suffix in
which number format they are stored and which one the weight has:

    layout         inputs             what its functions compute
    Gaps8Steps     steps, values      sum the steps up, put each value where it lands
    Gaps8          codes, values      the same, with values for the codes that name an index only
    Gaps4          codes, values      the same for codes of four bits, a UINT4 tensor (opset 21 and later)
    Gaps4Packed    bytes, values      the same, two codes in a byte
    Bitmask        bytes, values      count the bits, take a value for each that is set
    Dense          values             nothing but the change of format

    suffix         stored -> weight
    (none)         fp32 -> fp32
    Fp16           fp16 -> fp32
    Int8           int8 -> fp32, times ``scales``, a third input
    Half           fp16 -> fp16
    Int8Half       int8 -> fp16, times ``scales`` in fp32

ONNX Runtime inlines functions and folds what depends on constants alone when it creates a session, from
ORT_ENABLE_BASIC on. It does not fold operators whose output shape depends on values (NonZero, Compress), nor a lone
DequantizeLinear, so that none of them is used here. The time goes into memory that is touched for the first time: every
line costs that works on as many elements as there are codes, or worse, weights.

``encoder`` inserts these functions into a model, for the nodes that ``node_builder`` makes. ``decode`` reads them back
and computes the same in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

DOMAIN = "ai.granet"
VERSION = 1
"""The version of the domain. It stays: a function with another meaning gets another name."""

OPSET = 13
"""The first version of the standard operators that has all that is used here."""

UINT4_OPSET, UINT4_IR = 21, 10
"""The first versions that can cast from UINT4, and store it."""


@dataclass(frozen=True)
class Format:
    """How the values of a weight are stored, as element types of ONNX."""

    stored: int
    weight: int

    @property
    def scaled(self) -> bool:
        """Whether values are multiples of a scale for each channel."""
        return self.stored == TensorProto.INT8


SUFFIXES: Mapping[Format, str] = {
    Format(TensorProto.FLOAT, TensorProto.FLOAT): "",
    Format(TensorProto.FLOAT16, TensorProto.FLOAT): "Fp16",
    Format(TensorProto.INT8, TensorProto.FLOAT): "Int8",
    Format(TensorProto.FLOAT16, TensorProto.FLOAT16): "Half",
    Format(TensorProto.INT8, TensorProto.FLOAT16): "Int8Half",
}


@dataclass(frozen=True)
class DecoderLayout:
    """How a decoder stores where its values belong.

    Attributes:
        encoding: the name that users see.
        positions: the name of the input with the positions; None when every weight is stored.
        body: the lines that compute ``flat``, or the weight itself, from the inputs.
        text: a description for readers of the model.
        type: the element type of the positions.
        attributes: of the function.
        quick: whether it takes few operations to decode.
    """

    encoding: str
    positions: str | None
    body: str
    text: str
    type: int = TensorProto.UINT8
    attributes: tuple[str, ...] = ("shape", "size")
    quick: bool = False

    def inputs(self, format: Format) -> list[str]:
        """Return the names of the function's inputs."""
        return [*([self.positions] if self.positions else []), "values", *(["scales"] if format.scaled else [])]


# Two codes for each byte, the low half first; bit by bit, the lowest first.
_NIBBLES = np.arange(256)[:, None] >> np.array([0, 4]) & 15
_BITS = np.arange(256)[:, None] >> np.arange(8) & 1

_ENDS = """
  origin = Constant <value_int: int = 0> ()
  length = Constant <value_ints: ints = @size> ()
  dims = Constant <value_ints: ints = @shape> ()
"""

# A code that names an index moves the cursor by one more than it says, the filler by what it says; less one, both land
# where nothing else does (``granet.masks.codec.Gaps.steps``). Values begin with a zero, which is what fillers get.
_CODES = (
    _ENDS
    + """
  one = Constant <value: tensor = int32 {1}> ()
  filler = Constant <value: tensor = int32 {FILLER}> ()
  skips = Cast <to: int = 6> (codes)
  named = Less (skips, filler)
  counts = Cast <to: int = 6> (named)
  ranks = CumSum (counts, origin)
  skipped = CumSum (skips, origin)
  behind = Add (skipped, ranks)
  landings = Sub (behind, one)
  chosen = Mul (ranks, counts)
  updates = GatherElements (VALUES, chosen)
  zeros = ConstantOfShape <value: tensor = ZERO> (length)
  flat = ScatterElements (zeros, landings, updates)
"""
)

_STEPS = """
  moves = Cast <to: int = 6> (steps)
  landings = CumSum (moves, origin)
  zeros = ConstantOfShape <value: tensor = ZERO> (length)
  flat = ScatterElements (zeros, landings, VALUES)
"""

_NIBBLES_OF_BYTES = """
  first = Constant <value_ints: ints = [0]> ()
  end = Constant <value_ints: ints = @count> ()
  row = Constant <value_ints: ints = [-1]> ()
  table = Constant <value: tensor = uint8[256, 2] {NIBBLES}> ()
  indices = Cast <to: int = 6> (bytes)
  pairs = Gather (table, indices)
  padded = Reshape (pairs, row)
  codes = Slice (padded, first, end)
""".replace("NIBBLES", ", ".join(map(str, _NIBBLES.flat)))

_RANKED_BITS = """
  first = Constant <value_ints: ints = [0]> ()
  row = Constant <value_ints: ints = [-1]> ()
  table = Constant <value: tensor = uint8[256, 8] {BITS}> ()
  indices = Cast <to: int = 6> (bytes)
  octets = Gather (table, indices)
  padded = Reshape (octets, row)
  bits = Slice (padded, first, length)
  counts = Cast <to: int = 6> (bits)
  ranks = CumSum (counts, origin)
  chosen = Mul (ranks, counts)
  flat = GatherElements (VALUES, chosen)
""".replace("BITS", ", ".join(map(str, _BITS.flat)))

_GAPS8 = "Codes below 255 skip that many weights and name the next one, 255 skips 255. values: 0, then those named."
_GAPS4 = "Codes below 15 skip that many weights and name the next one, 15 skips 15. values: 0, then those named."

LAYOUTS: Mapping[str, DecoderLayout] = {
    "Gaps8Steps": DecoderLayout(
        "gaps8",
        "steps",
        _ENDS + _STEPS,
        "steps: from each stored weight to the next, the first from weight 0. values: one for each; fillers are 0.",
        quick=True,
    ),
    "Gaps8": DecoderLayout("gaps8", "codes", _CODES.replace("FILLER", "255"), _GAPS8),
    "Gaps4": DecoderLayout("gaps4", "codes", _CODES.replace("FILLER", "15"), _GAPS4, type=TensorProto.UINT4),
    "Gaps4Packed": DecoderLayout(
        "gaps4",
        "bytes",
        _NIBBLES_OF_BYTES + _CODES.replace("FILLER", "15"),
        _GAPS4 + " Two codes a byte, the low half first, count in all.",
        attributes=("shape", "size", "count"),
    ),
    "Bitmask": DecoderLayout(
        "bitmask",
        "bytes",
        _ENDS + _RANKED_BITS,
        "A bit for each weight, the lowest of a byte first. values: 0, then those whose bit is set.",
    ),
    "Dense": DecoderLayout("dense", None, "", "values: all of them.", attributes=(), quick=True),
}
"""By their names, those that are decoded faster first."""

FUNCTIONS: Mapping[str, tuple[str, Format]] = {
    name + suffix: (name, format)
    for name, layout in LAYOUTS.items()
    for format, suffix in SUFFIXES.items()
    if layout.positions is not None or format.stored != format.weight
}
"""For each decoder its layout and format, by the name of the function, which is the operator of nodes that call it."""

_CONSTANTS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)


def function(name: str, opset: int) -> onnx.FunctionProto:
    """Return the function called ``name``, for a model with version ``opset`` of the standard operators."""
    built = onnx.FunctionProto()
    built.CopyFrom(_parsed(name))
    built.opset_import[0].version = opset
    return built


def is_ours(candidate: onnx.FunctionProto) -> bool:
    """Return whether a function in a file is, line by line, the one of this name that is written here.

    Comments and other annotations of tools, and the order of independent lines, do not count.
    """
    if candidate.domain != DOMAIN or candidate.name not in FUNCTIONS:
        return False
    versions = [entry.version for entry in candidate.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or len(candidate.opset_import) != 1:
        return False
    return _normalised(candidate) == _normalised(function(candidate.name, versions[0]))


@cache
def _parsed(name: str) -> onnx.FunctionProto:
    layout_name, format = FUNCTIONS[name]
    layout = LAYOUTS[layout_name]
    lines, values, zero = "", "values", format.stored
    if format == Format(TensorProto.FLOAT16, TensorProto.FLOAT) and layout.positions:
        lines, values, zero = f"  wide = Cast <to: int = {TensorProto.FLOAT}> (values)\n", "wide", format.weight
    zeros = TensorProto.DataType.Name(zero).lower() + "[1] {0}"
    lines += layout.body.replace("VALUES", values).replace("ZERO", zeros) + _reshape_and_scale_lines(layout, format)
    attributes = f" <{', '.join(layout.attributes)}>" if layout.attributes else ""
    signature = f"{name}{attributes} ({', '.join(layout.inputs(format))}) => (weight)"
    parsed = onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{signature}\n{{\n{lines}\n}}'
    )
    parsed.doc_string = layout.text + (" Each is a multiple of its channel's scale." if format.scaled else "")
    return parsed


def _reshape_and_scale_lines(layout: DecoderLayout, format: Format) -> str:
    """Return the lines that compute ``weight`` from the flat values: reshape, scale, change the format.

    Values of a layout without positions have the shape of the weight already.
    """
    lines, shaped = "", "values"
    if layout.positions:
        shaped = "shaped" if format.scaled else "weight"
        lines = f"  {shaped} = Reshape (flat, dims)\n"
    if not format.scaled:
        return lines or f"  weight = Cast <to: int = {format.weight}> ({shaped})\n"
    product = "weight" if format.weight == TensorProto.FLOAT else "product"
    lines += f"  levels = Cast <to: int = {TensorProto.FLOAT}> ({shaped})\n  {product} = Mul (levels, scales)\n"
    return lines if product == "weight" else f"{lines}  weight = Cast <to: int = {format.weight}> (product)\n"


def _normalised(candidate: onnx.FunctionProto) -> bytes:
    """Serialize a function without annotations and in a fixed order."""
    copy = onnx.FunctionProto()
    copy.CopyFrom(candidate)
    for field in ("doc_string", "metadata_props", "value_info"):
        copy.ClearField(field)
    for node in copy.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        node.attribute.sort(key=lambda attribute: attribute.name)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("t"):
                _use_raw_data_(attribute.t)
    copy.node.sort(key=lambda node: list(node.output))
    serialized: bytes = copy.SerializeToString(deterministic=True)
    return serialized


def _use_raw_data_(tensor: TensorProto) -> None:
    """Move the data of a small constant to ``raw_data``, whichever field a tool has put them in."""
    here = tensor.data_location != TensorProto.EXTERNAL  # what reads tensors would open any file that this names
    small = len(tensor.dims) <= _BITS.ndim and all(0 <= size <= _BITS.size for size in tensor.dims)
    if tensor.data_type in _CONSTANTS and here and small:
        with suppress(ValueError):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))
