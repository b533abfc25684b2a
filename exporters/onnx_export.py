"""A checkpoint -> a compact ONNX file that stock ONNX Runtime opens, proved to compute the same.

Everything is made in a hidden folder beside the target and moved into place when all of it is true, so that a failure
at any step leaves what was there before, and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from torch import Tensor, nn

from exporters import conformance, examples, float16, graph_cleanup, metadata, onnx_files, proof, tensors, tracing
from exporters.compaction import Compacted, compact
from exporters.encoding import ENCODINGS, PRECISIONS, Encoded, encode, inflate
from exporters.examples import Batch
from exporters.metadata import Origin
from exporters.proof import Proof
from exporters.tensors import GraphWeight
from exporters.tracing import Example
from granet.checkpoint import Checkpoint, Network
from granet.data import Dataset
from granet.errors import UnknownNameError, UsageError

COMPUTES = ("fp32", "fp16")

Tell = Callable[[str], None]
"""Is told of every step, a few words each."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to make of a checkpoint.

    Attributes:
        encoding: how positions are stored; ``auto`` takes the smallest for each tensor.
        precision: of stored values.
        compute: the number format that the graph computes in.
        compact: remove channels that cannot matter.
        twin: write the dense twin too, as ``NAME.dense.onnx``.
        opset: version of the standard operators; None leaves it to torch.

    Raises:
        UsageError: a name that is not known, or two settings that contradict each other.
    """

    encoding: str = "auto"
    precision: str = "fp32"
    compute: str = "fp32"
    compact: bool = False
    twin: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("encoding", self.encoding, ENCODINGS),
            ("precision", self.precision, PRECISIONS),
            ("compute", self.compute, COMPUTES),
        ):
            if value not in choices:
                raise UnknownNameError(option, value, choices, where=f"--{option}")
        if self.compute == "fp16" and self.precision == "fp32":
            raise UsageError(
                "a graph that computes in fp16 has no values in fp32",
                where="--precision",
                got="fp32 with --compute fp16",
                expected="fp16 or int8",
            )

    @property
    def coarsest(self) -> str:
        """The number format with the fewest digits that values go through."""
        return self.precision if self.precision != "fp32" else self.compute


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        settings: what was asked for.
        output: the file.
        bytes: its size, with external data.
        dense_bytes: the size of its dense twin, whether that was kept or not.
        limit_bytes: the size that the file would have with each weight at its entropy limit and without decoders.
        twin: the file of the dense twin, if it was kept.
        parameters: masked weights in the file.
        active: how many of them are active.
        zeros: how many of those are exactly zero all the same.
        encodings: for the tensor of each weight, how it is stored.
        opset: of the graph.
        proof: what was compared.
        origin: where it is from.
        compaction: what was removed; None when that was not asked for.
        remarks: sentences that the user should know.
    """

    settings: ExportSettings
    output: Path
    bytes: int
    dense_bytes: int
    limit_bytes: int
    twin: Path | None
    parameters: int
    active: int
    zeros: int
    encodings: Mapping[str, str]
    opset: int
    proof: Proof
    origin: Origin
    compaction: Compacted | None
    remarks: tuple[str, ...]

    @property
    def density(self) -> float:
        """Active over masked weights."""
        return self.active / self.parameters if self.parameters else 1.0


def twin_of(output: Path) -> Path:
    """Where the dense twin of ``output`` goes: ``sparse.dense.onnx`` beside ``sparse.onnx``."""
    stem = output.name.removesuffix(".onnx")
    return output.with_name(f"{stem}.dense.onnx")


def export(
    checkpoint: Checkpoint,
    output: Path,
    settings: ExportSettings,
    *,
    content_hash: str,
    factory: str | None = None,
    example: str | None = None,
    images: Callable[[], Dataset | None] = lambda: None,
    tell: Tell = lambda _: None,
) -> ExportReport:
    """Exports a checkpoint to the file ``output``, replacing what is there.

    Args:
        checkpoint: may come from anybody.
        output: the file to be.
        settings: what to make of it.
        content_hash: the checkpoint's, to be stored.
        factory: confirms a network of one's own, see :func:`granet.models.from_checkpoint`.
        example: ``package.module:factory`` of example inputs, for networks that take something else than images or
            give something else than one row of logits.
        images: finds images of the network's kind, to prove the export on besides made-up ones; None when there are
            none. Not asked when the example is of something else.
        tell: is told of every step.

    Raises:
        FileError: ``output`` cannot be written.
        ModelError: the network cannot be built or written down, does not fit in fp16, or the proof failed.
        UsageError: what was asked for cannot be done.
    """
    with onnx_files.staging(output) as folder:  # first of all, since it finds out whether anything can be written there
        tell("building the network")
        name, origin = checkpoint.network.name, Origin.of(checkpoint, content_hash)
        network = tracing.network(checkpoint, factory=factory, trial=example is None)
        inputs = tracing.example_of(checkpoint, example)
        batches = _batches(inputs, checkpoint.network, images)
        expected = proof.reference(network, batches, name)

        tell("exporting with torch")
        compacted = compact(network, inputs) if settings.compact else None
        plain = network if compacted is None else compacted.model
        masks = checkpoint.masks if compacted is None else _support(plain, checkpoint.masks)
        traced = tracing.trace(plain, inputs, where=name, opset=settings.opset)
        graph_cleanup.fold_norms_(traced.model)
        weights = tensors.match(traced.model.graph, plain, masks, traced.unused)
        scope = [weight.tensor for weight in weights]
        graph_cleanup.positive_zeros_(traced.model, scope)
        graph = graph_cleanup.serialize(traced.model)

        tell("encoding weights")
        computing = graph
        if settings.compute == "fp16":
            computing = graph_cleanup.serialize(float16.halve(traced.model))
        encoded = encode(computing, encoding=settings.encoding, precision=settings.precision, scope=scope)
        decoded = inflate(encoded.model)
        tensors.check_stored(computing.graph, decoded.graph, settings.precision)

        tell("comparing with torch in ONNX Runtime")
        twin_name = twin_of(output).name
        if settings.coarsest != "fp32":
            proof.check_graph(folder.write(graph, twin_name), batches, expected)
        if settings.compute == "fp16":
            proof.check_range(folder.write(float16.with_all_values(graph), twin_name), batches)
        sparse, twin = folder.write(encoded.model, output.name), folder.write(decoded, twin_name)
        proved, answers = proof.prove(sparse, twin, batches, expected, precision=settings.coarsest, scratch=folder.path)

        tell("writing")
        metadata.write_(encoded.model, _entries(origin, settings, weights, encoded.encodings, proved))
        metadata.write_(decoded, _entries(origin, settings, weights, {}, proved))
        sparse, twin = folder.write(encoded.model, output.name), folder.write(decoded, twin_name)
        conformance.check(sparse, full="coo" not in encoded.encodings.values())
        proof.check_again(sparse, batches, answers)
        sizes = onnx_files.size(sparse), onnx_files.size(twin)
        folder.publish([output.name, *([twin_name] if settings.twin else [])])

    masked = [weight for weight in weights if weight.masked]
    return ExportReport(
        settings=settings,
        output=output,
        bytes=sizes[0],
        dense_bytes=sizes[1],
        limit_bytes=sizes[0] + _to_limit(encoded),
        twin=twin_of(output) if settings.twin else None,
        parameters=sum(weight.parameters for weight in masked),
        active=sum(weight.active for weight in masked),
        zeros=sum(weight.active - weight.nonzero for weight in masked),
        encodings=dict(encoded.encodings),
        opset=traced.model.opset_imports[""],
        proof=proved,
        origin=origin,
        compaction=compacted,
        remarks=(
            *encoded.remarks,
            *_remarks(
                zeros=sum(weight.active - weight.nonzero for weight in masked),
                vanished=tensors.nonzero(graph.graph, scope) - tensors.nonzero(computing.graph, scope),
                unused=traced.unused,
                proved=proved,
            ),
        ),
    )


def _batches(inputs: Example, network: Network, images: Callable[[], Dataset | None]) -> list[Batch]:
    """What the export is tried on."""
    shape = (network.in_channels, network.image_size, network.image_size)
    dataset = images() if [tuple(tensor.shape[1:]) for tensor in inputs] == [shape] else None
    return [examples.made_up(inputs), *([examples.real(dataset, network)] if dataset is not None else [])]


def _support(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of a network that lost channels: the weights that are not zero."""
    return {name: weight.detach() != 0 for name, weight in model.named_parameters() if name in masks}


def _to_limit(encoded: Encoded) -> int:
    """What a file would grow by, which is negative, if each weight took as many bytes as its entropy."""
    grown = sum(tensor.limit_bytes - tensor.bytes for tensor in encoded.tensors)
    return math.ceil(grown) - encoded.shared_bytes


def _entries(
    origin: Origin,
    settings: ExportSettings,
    weights: Sequence[GraphWeight],
    encodings: Mapping[str, str],
    proved: Proof,
) -> dict[str, dict[str, Any]]:
    """The metadata of a file that stores its weights as ``encodings`` says."""
    return {
        metadata.CHECKPOINT: metadata.origin_entry(origin),
        metadata.WEIGHTS: {
            "precision": settings.precision,
            "compute": settings.compute,
            "compacted": settings.compact,
            "parameters": sum(weight.parameters for weight in weights if weight.masked),
            "active": sum(weight.active for weight in weights if weight.masked),
            "tensors": {
                weight.tensor: {
                    "encoding": encodings.get(weight.tensor, "dense"),
                    "parameters": weight.parameters,
                    "active": weight.active,
                    "nonzero": weight.nonzero,
                }
                for weight in weights
            },
        },
        metadata.PROOF: {
            **asdict(proved),
            "versions": {package: importlib.metadata.version(package) for package in ("granet", "torch", "onnx")}
            | {"onnxruntime": onnxruntime.__version__},
        },
    }


def _remarks(*, zeros: int, vanished: int, unused: Collection[str], proved: Proof) -> Iterator[str]:
    if zeros:
        yield f"active weights that are exactly zero, as those just grown are, and so are not stored: {zeros:,}"
    if vanished:
        yield f"weights too small for a graph in fp16, which become zero: {vanished:,}"
    if unused:
        names = ", ".join(sorted(unused)[:3]) + (", ..." if len(unused) > 3 else "")
        yield f"left out, since the network does not use them in evaluation: {names}"
    if not proved.real:
        yield "compared on made-up inputs only, for want of images that fit; --data DIR names some"
