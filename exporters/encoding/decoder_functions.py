"""The decoders: model-local functions of standard operators that turn a stored tensor back into a weight.

A name is a layout and a suffix. The layout says where the values belong (``docs/onnx-encodings.md``), the suffix in
which format they are stored and which one the weight has:

    layout         inputs             what its functions do
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

ONNX Runtime inlines functions and folds what hangs on constants when it creates a session, from ORT_ENABLE_BASIC on.
Operators whose output shape depends on values (NonZero, Compress) are not folded, and neither is a lone
DequantizeLinear; there are none here. What costs time there is memory that is touched for the first time, so each line
below counts that works on as many elements as there are codes, or worse, weights.
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
"""Of the domain. A function that is to mean anything else gets another name."""

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
    """What is stored beside the values.

    Attributes:
        encoding: what users call it.
        positions: the name of the input that says where values belong; None when they are all there.
        type: its element type.
        attributes: of the function.
        quick: whether it takes few operations to decode.
        body: what makes ``flat``, or the weight itself, from the inputs.
        text: what it is, for whoever reads the model.
    """

    encoding: str
    positions: str | None
    type: int
    attributes: tuple[str, ...]
    quick: bool
    body: str
    text: str


# Two codes for each byte, the low half first; bit by bit, the lowest first.
_NIBBLES = np.arange(256)[:, None] >> np.array([0, 4]) & 15
_BITS = np.arange(256)[:, None] >> np.arange(8) & 1

_ENDS = """
  origin = Constant <value_int: int = 0> ()
  length = Constant <value_ints: ints = @size> ()
  dims = Constant <value_ints: ints = @shape> ()
"""

# A code that names an index moves the cursor by one more than it says, the filler by what it says; less one, both land
# where nothing else does (``sparse_codec.Gaps.steps``). Values begin with a zero, which is what fillers get.
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

_GAPS4 = "Codes below 15 skip that many weights and name the next one, 15 skips 15. values: 0, then those named."

LAYOUTS: Mapping[str, DecoderLayout] = {
    "Gaps8Steps": DecoderLayout(
        "gaps8",
        "steps",
        TensorProto.UINT8,
        ("shape", "size"),
        True,
        _ENDS
        + """
  moves = Cast <to: int = 6> (steps)
  landings = CumSum (moves, origin)
  zeros = ConstantOfShape <value: tensor = ZERO> (length)
  flat = ScatterElements (zeros, landings, VALUES)
""",
        "steps: from each stored weight to the next, the first from weight 0. values: one for each; fillers are 0.",
    ),
    "Gaps8": DecoderLayout(
        "gaps8",
        "codes",
        TensorProto.UINT8,
        ("shape", "size"),
        False,
        _CODES.replace("FILLER", "255"),
        "Codes below 255 skip that many weights and name the next one, 255 skips 255. values: 0, then those named.",
    ),
    "Gaps4": DecoderLayout(
        "gaps4",
        "codes",
        TensorProto.UINT4,
        ("shape", "size"),
        False,
        _CODES.replace("FILLER", "15"),
        _GAPS4,
    ),
    "Gaps4Packed": DecoderLayout(
        "gaps4",
        "bytes",
        TensorProto.UINT8,
        ("shape", "size", "count"),
        False,
        """
  first = Constant <value_ints: ints = [0]> ()
  end = Constant <value_ints: ints = @count> ()
  row = Constant <value_ints: ints = [-1]> ()
  table = Constant <value: tensor = uint8[256, 2] {NIBBLES}> ()
  indices = Cast <to: int = 6> (bytes)
  pairs = Gather (table, indices)
  padded = Reshape (pairs, row)
  codes = Slice (padded, first, end)
""".replace("NIBBLES", ", ".join(map(str, _NIBBLES.flat)))
        + _CODES.replace("FILLER", "15"),
        _GAPS4 + " Two codes a byte, the low half first, count in all.",
    ),
    "Bitmask": DecoderLayout(
        "bitmask",
        "bytes",
        TensorProto.UINT8,
        ("shape", "size"),
        False,
        _ENDS
        + """
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
""".replace("BITS", ", ".join(map(str, _BITS.flat))),
        "A bit for each weight, the lowest of a byte first. values: 0, then those whose bit is set.",
    ),
    "Dense": DecoderLayout("dense", None, TensorProto.UNDEFINED, (), True, "", "values: all of them."),
}
"""By their names, those that are decoded faster first."""

_CONSTANTS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
_TYPES: Mapping[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16", TensorProto.INT8: "int8"}


def name_of(layout: str, form: Format) -> str:
    """The name of the function, which is the operator of the nodes that call it."""
    return layout + SUFFIXES[form]


@cache
def _meanings() -> Mapping[str, tuple[str, Format]]:
    return {
        name_of(layout, form): (layout, form)
        for layout in LAYOUTS
        for form in SUFFIXES
        if layout != "Dense" or form.stored != form.weight
    }


def meaning(name: str) -> tuple[str, Format] | None:
    """The layout and format of the function called ``name``; None when there is no such function."""
    return _meanings().get(name)


def function(name: str, opset: int) -> onnx.FunctionProto:
    """The function called ``name``, for a model that uses version ``opset`` of the standard operators."""
    built = onnx.FunctionProto()
    built.CopyFrom(_parsed(name))
    built.opset_import[0].version = opset
    return built


def is_ours(candidate: onnx.FunctionProto) -> bool:
    """Whether a function in a file is, line by line, the one of this name that is written here.

    Comments, what tools note beside the lines, and the order of lines that do not depend on one another do not count.
    """
    if candidate.domain != DOMAIN or meaning(candidate.name) is None:
        return False
    versions = [entry.version for entry in candidate.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or len(candidate.opset_import) != 1:
        return False
    return _bare(candidate) == _bare(function(candidate.name, versions[0]))


@cache
def _parsed(name: str) -> onnx.FunctionProto:
    layout_name, form = _meanings()[name]
    layout = LAYOUTS[layout_name]
    inputs = [*([layout.positions] if layout.positions else []), "values", *(["scales"] if form.scaled else [])]
    lines, values = "", "values"
    if form == Format(TensorProto.FLOAT16, TensorProto.FLOAT) and layout_name != "Dense":
        lines, values = f"  wide = Cast <to: int = {TensorProto.FLOAT}> (values)\n", "wide"
    zero = _TYPES[form.stored if values == "values" else form.weight] + "[1] {0}"
    lines += layout.body.replace("VALUES", values).replace("ZERO", zero)
    lines += _ending("values" if layout_name == "Dense" else None, form)
    attributes = f" <{', '.join(layout.attributes)}>" if layout.attributes else ""
    signature = f"{name}{attributes} ({', '.join(inputs)}) => (weight)"
    parsed = onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{signature}\n{{\n{lines}\n}}'
    )
    scaled = " Each is a multiple of its channel's scale." if form.scaled else ""
    parsed.doc_string = layout.text + scaled
    return parsed


def _ending(dense: str | None, form: Format) -> str:
    """From ``flat``, or the name of what has the weight's shape already, to ``weight``."""
    shaped = dense or ("shaped" if form.scaled else "weight")
    lines = "" if dense else f"  {shaped} = Reshape (flat, dims)\n"
    if not form.scaled:
        return lines or f"  weight = Cast <to: int = {form.weight}> ({shaped})\n"
    product = "weight" if form.weight == TensorProto.FLOAT else "product"
    lines += f"  levels = Cast <to: int = {TensorProto.FLOAT}> ({shaped})\n  {product} = Mul (levels, scales)\n"
    return lines if product == "weight" else f"{lines}  weight = Cast <to: int = {form.weight}> (product)\n"


def _bare(candidate: onnx.FunctionProto) -> bytes:
    """What a function says, in one spelling."""
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
                _spell_(attribute.t)
    copy.node.sort(key=lambda node: list(node.output))
    spelled: bytes = copy.SerializeToString(deterministic=True)
    return spelled


def _spell_(tensor: TensorProto) -> None:
    """Puts the data of a small constant where they belong, wherever a tool has put them."""
    here = tensor.data_location != TensorProto.EXTERNAL  # what reads tensors would open any file that this names
    small = len(tensor.dims) <= _BITS.ndim and all(0 <= size <= _BITS.size for size in tensor.dims)
    if tensor.data_type in _CONSTANTS and here and small:
        with suppress(ValueError):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))
