"""A model with dense weights -> the same model with encoded ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.encoding import choose, coo, decoder_functions, encodable, node_builder
from exporters.encoding.decoder_functions import DOMAIN, LAYOUTS, Format
from exporters.encoding.graphs import copy, names, opset
from exporters.encoding.node_builder import COO, PLAIN, EncodedWeight
from exporters.encoding.values import PRECISION_OF, PRECISIONS
from granet.errors import ModelError, UnknownNameError

ENCODINGS = ("auto", "gaps8", "gaps4", "bitmask", "coo", "dense")
"""What can be asked for; ``auto`` takes what is smallest of all but coo."""

_FUNCTIONS_IR = 8
"""The first version of the format in which a model can have functions."""


@dataclass(frozen=True, kw_only=True)
class EncodedTensor:
    """What became of one tensor.

    Attributes:
        name: the initializer's, and now that of the value which stands in for it.
        parameters: how many weights it has.
        active: how many of them are not zero as stored.
        encoding: gaps8, gaps4, bitmask, coo or dense.
        precision: of the stored values: fp32, fp16 or int8; None for a tensor that is ``kept``.
        bytes: what it takes in the file, its node and all names included.
        limit_bytes: what it takes at least in any encoding that knows nothing but the density d: H(d) bits for each
            weight, and the values that are active, with their scales.
        vanished: how many weights are not zero, but are in this precision.
        kept: why it stays as it was, when that was not a choice.
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
    """A model, and how its tensors are stored.

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


def encode(model: onnx.ModelProto, *, encoding: str, precision: str, scope: Collection[str]) -> Encoded:
    """Encodes initializers of ``model``, which is not changed.

    Weights of zero are not stored, whatever their sign, and become +0.0.

    Args:
        model: with the data of all its tensors.
        encoding: one of ``ENCODINGS``. ``auto`` makes the file as small as it can, but for a hundredth of a tensor that
            a much faster decoder may cost, and leaves tensors as they are where nothing is smaller. Any other is used
            wherever it is possible.
        precision: of stored values, one of ``PRECISIONS``.
        scope: names of initializers of the graph. Those that cannot be encoded stay as they are; the result says why.

    Raises:
        UnknownNameError: no such encoding or precision.
        ModelError: a weight that the precision cannot say, a name that is not there, or a model of a version whose
            operators cannot decode.
    """
    for kind, name, known in (("encoding", encoding, ENCODINGS), ("precision", precision, PRECISIONS)):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    obstacles = encodable.obstacles(model.graph, scope)
    axes = encodable.channel_axes(model.graph)
    weights = {
        tensor.name: EncodedWeight.of(tensor, precision, axes.get(tensor.name, 0))
        for tensor in model.graph.initializer
        if tensor.name in obstacles and obstacles[tensor.name] is None
    }
    ways: dict[str, str] = {}
    for form in {weight.stored.format for weight in weights.values()}:  # no two of which share decoders
        ways |= _choose(model, {name: x for name, x in weights.items() if x.stored.format == form}, form, encoding)
    return _assemble(model, weights, ways, obstacles)


def _choose(
    model: onnx.ModelProto, weights: Mapping[str, EncodedWeight], form: Format, encoding: str
) -> dict[str, str]:
    """Which way each of the weights goes, all of one format."""
    allowed = _allowed(model, form, encoding)
    if len(allowed) == 1:
        return dict.fromkeys(weights, allowed[0])
    costs = [{way: _cost(way, weight) for way in allowed} for weight in weights.values()]
    decoders = {way: node_builder.decoder(way, form) for way in allowed}
    shared = {way: _function_bytes(name, opset(model)) for way, name in decoders.items() if name is not None}
    return dict(zip(weights, choose.smallest(costs, shared), strict=True))


def _allowed(model: onnx.ModelProto, form: Format, encoding: str) -> list[str]:
    """The ways that are open to weights of a format, the fastest to decode first.

    Raises:
        ModelError: there is none but through operators that the model's version lacks.
    """
    changed = form.stored != form.weight
    if encoding == "coo":
        ways = [COO]
    else:
        with_uint4 = opset(model) >= decoder_functions.UINT4_OPSET and model.ir_version >= decoder_functions.UINT4_IR
        left_out = {"Gaps4Packed" if with_uint4 else "Gaps4", *([] if changed else ["Dense"])}
        ways = [way for way in LAYOUTS if encoding in ("auto", LAYOUTS[way].encoding) and way not in left_out]
    if opset(model) < decoder_functions.OPSET and any(node_builder.decoder(way, form) for way in ways):
        raise ModelError(
            "the operators of this model's version cannot decode weights",
            where="opset",
            got=opset(model),
            expected=f"{decoder_functions.OPSET} or later",
            remedy="export it again with a newer opset",
        )
    return [PLAIN, *ways] if encoding == "auto" or not ways else ways


def _assemble(
    model: onnx.ModelProto,
    weights: Mapping[str, EncodedWeight],
    ways: Mapping[str, str],
    obstacles: Mapping[str, str | None],
) -> Encoded:
    taken = names(model)
    encoded = copy(model, leave=("initializer", "node"))
    graph, tensors = encoded.graph, []
    for tensor in model.graph.initializer:
        weight = weights.get(tensor.name)
        if weight is None:
            graph.initializer.append(tensor)
            if tensor.name in obstacles:
                tensors.append(_kept(tensor, obstacles[tensor.name]))
            continue
        built = node_builder.build(ways[tensor.name], weight, taken)
        graph.initializer.extend(built.initializers)
        graph.sparse_initializer.extend(built.sparse)
        graph.node.extend(built.nodes)
        tensors.append(_told(ways[tensor.name], weight, built.bytes))
    graph.node.extend(model.graph.node)  # behind what makes their weights
    needed = {node_builder.decoder(way, weights[name].stored.format) for name, way in ways.items()} - {None}
    return Encoded(
        model=encoded,
        tensors=tuple(tensors),
        shared_bytes=_add_functions_(encoded, sorted(filter(None, needed))),
        remarks=tuple(_remarks(tensors)),
    )


def _add_functions_(model: onnx.ModelProto, wanted: Iterable[str]) -> int:
    """Adds the decoders, in place, and returns what they take."""
    before = int(model.ByteSize())
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    for name in wanted:
        model.ir_version = max(model.ir_version, _FUNCTIONS_IR)
        if DOMAIN not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, decoder_functions.VERSION))
        if name not in present:
            model.functions.append(decoder_functions.function(name, opset(model)))
    return int(model.ByteSize()) - before


def _cost(way: str, weight: EncodedWeight) -> int:
    """The bytes of a weight, and a hundredth more where decoding takes more than the least: it has to be worth it."""
    size = node_builder.build(way, weight, ()).bytes
    return size if way == PLAIN or LAYOUTS[way].quick else size + size // 100


def _function_bytes(name: str, version: int) -> int:
    return node_builder.field_bytes(int(decoder_functions.function(name, version).ByteSize()))


def _told(way: str, weight: EncodedWeight, size: int) -> EncodedTensor:
    stored = weight.stored
    encoding = {PLAIN: "dense", COO: "coo"}.get(way) or LAYOUTS[way].encoding
    values = weight.plain if way == PLAIN else stored.values
    active = int(np.count_nonzero(values))
    density = active / values.size
    entropy = -sum(share * math.log2(share) for share in (density, 1 - density) if share)
    scales = 0 if way == PLAIN or stored.scales is None else stored.scales.nbytes
    return EncodedTensor(
        name=weight.tensor.name,
        parameters=values.size,
        active=active,
        encoding=encoding,
        precision=PRECISION_OF[stored.format.weight if way == PLAIN else stored.format.stored],
        bytes=size,
        limit_bytes=entropy * values.size / 8 + active * values.itemsize + scales,
        vanished=0 if way == PLAIN else stored.vanished,
    )


def _kept(tensor: TensorProto, reason: str | None) -> EncodedTensor:
    size = math.prod(tensor.dims)
    taken = node_builder.field_bytes(tensor.ByteSize())
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


def _remarks(tensors: Iterable[EncodedTensor]) -> Iterator[str]:
    told = list(tensors)
    if any(tensor.encoding == "coo" for tensor in told):
        yield coo.CAVEAT
    vanished = dict.fromkeys(PRECISIONS, 0)
    for tensor in told:
        if tensor.precision is not None:
            vanished[tensor.precision] += tensor.vanished
        if tensor.kept is not None:
            yield f"{tensor.name} stays as it is: {tensor.kept}"
    for precision, count in vanished.items():
        if count:
            yield f"{count:,} weights are too small for {precision} and become zero"
