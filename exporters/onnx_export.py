"""Export a checkpoint to a compact ONNX file that stock ONNX Runtime opens, proved to compute the same.

Everything is made in a hidden folder beside the target and moved into place when all checks have passed, so that a
failure at any step leaves what was there before, and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import Tensor

from exporters import (
    conformance,
    examples,
    float16,
    graph_cleanup,
    metadata,
    onnx_files,
    onnx_graph,
    proof,
    tracing,
    weight_matching,
)
from exporters.compaction import Compacted, compact
from exporters.encoding import ENCODINGS, PRECISIONS, encode, inflate
from exporters.examples import Batch
from exporters.islands import Island, add_islands
from exporters.metadata import Origin
from exporters.proof import Proof
from exporters.tracing import Example
from exporters.weight_matching import GraphWeight
from granet.checkpoint import Checkpoint, Network
from granet.data import Dataset
from granet.errors import UnknownNameError, UsageError, listing
from granet.kernels import MISSING, library

COMPUTES = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Options of an export.

    Attributes:
        encoding: how positions are stored; ``auto`` takes the smallest for each tensor.
        precision: of stored values.
        compute: the number format that the graph computes in.
        compact: remove channels that have no effect on the outputs.
        kernels: make chains of sparse layers islands, which the sparse kernels for CPUs run where they are registered.
        twin: write the dense twin too, as ``NAME.dense.onnx``.
        opset: version of the standard operators; None for torch's choice.

    Raises:
        UsageError: an unknown name, or two settings that contradict each other.
    """

    encoding: str = "auto"
    precision: str = "fp32"
    compute: str = "fp32"
    compact: bool = False
    kernels: bool = True
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
        """The least precise number format that values are rounded to."""
        return self.precision if self.precision != "fp32" else self.compute


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        settings: of the export.
        output: the file.
        bytes: its size, with external data.
        dense_bytes: the size of its dense twin, whether that was published or not.
        limit_bytes: the size that the file would have with each weight at its entropy limit and without decoders.
        twin: the file of the dense twin, if it was published.
        parameters: masked weights in the file.
        active: how many of them are active.
        zeros: how many of the active ones are exactly zero.
        encodings: for the tensor of each weight, how it is stored.
        islands: chains of layers that the sparse kernels run.
        opset: of the graph.
        proof: the results of all comparisons.
        origin: the checkpoint.
        compaction: what was removed; None without ``settings.compact``.
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
    islands: tuple[Island, ...]
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
    """Return the path of the dense twin of ``output``: ``sparse.dense.onnx`` for ``sparse.onnx``."""
    return output.with_name(f"{output.name.removesuffix('.onnx')}.dense.onnx")


def export(
    checkpoint: Checkpoint,
    output: Path,
    settings: ExportSettings,
    *,
    factory: str | None = None,
    example: str | None = None,
    images: Callable[[], Dataset | None] = lambda: None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export a checkpoint to the file ``output``, replacing what is there.

    Args:
        checkpoint: loaded from a file, which may be untrusted.
        output: the file to write.
        settings: options.
        factory: confirms a network of the user's own, see :func:`granet.models.from_checkpoint`.
        example: ``package.module:factory`` of example inputs, for networks that take something else than images or
            return something else than one row of logits.
        images: returns a dataset with images that the network takes, to compare outputs on besides random inputs, or
            None. Not called when the example is of something else.
        progress: called with a short description of each step.

    Raises:
        FileError: ``output`` cannot be written.
        ModelError: the network cannot be built or traced, does not fit in fp16, or a comparison failed.
        UsageError: settings that cannot be honoured.
    """
    with onnx_files.staging(output) as folder:  # first, since it finds out whether anything can be written there
        progress("building the network")
        name, origin = checkpoint.network.name, Origin.of(checkpoint)
        network = tracing.network(checkpoint, factory=factory, trial=example is None)
        inputs = tracing.example_of(checkpoint, example)
        batches = _batches(inputs, checkpoint.network, images)
        expected = proof.reference(network, batches, name)

        progress("exporting with torch")
        compacted = compact(network, inputs) if settings.compact else None
        masks = checkpoint.masks
        if compacted is not None:
            network = compacted.model
            masks = {name: weight.detach() != 0 for name, weight in network.named_parameters() if name in masks}
        traced = onnx_graph.of(network, inputs, masks, where=name, opset=settings.opset)
        weights = traced.weights
        scope = [weight.tensor for weight in weights]
        graph_cleanup.positive_zeros_(traced.model, scope)

        progress("encoding weights")
        exact = graph_cleanup.serialize(traced.model)
        graph = exact
        if settings.compute == "fp16":
            graph = graph_cleanup.serialize(float16.halve(traced.model))
        encoded = encode(
            graph, encoding=settings.encoding, precision=settings.precision, scope=scope, uint4=not settings.kernels
        )
        model: onnx.ModelProto = encoded.model
        islands: tuple[Island, ...] = ()
        if settings.kernels and settings.compute == "fp32":
            model, islands = add_islands(encoded.model, graph)
        decoded = inflate(model)
        proof.check_stored(graph.graph, decoded.graph, settings.precision)

        progress("comparing with torch in ONNX Runtime")
        twin_name = twin_of(output).name
        if settings.coarsest != "fp32":
            proof.check_graph(folder.write(exact, twin_name), batches, expected)
        if settings.compute == "fp16":
            proof.check_range(folder.write(float16.with_all_values(exact), twin_name), batches)
        sparse, twin = folder.write(model, output.name), folder.write(decoded, twin_name)
        proved, outputs = proof.prove(sparse, twin, batches, expected, precision=settings.coarsest, scratch=folder.path)

        if islands and library.path() is not None:
            error = proof.check_kernels(sparse, batches, expected, precision=settings.coarsest)
            proved = replace(proved, kernels_max_rel_error=error)

        progress("writing")
        metadata.write_(model, _entries(origin, settings, weights, encoded.encodings, proved))
        metadata.write_(decoded, _entries(origin, settings, weights, {}, proved))
        sparse, twin = folder.write(model, output.name), folder.write(decoded, twin_name)
        conformance.check(sparse, full="coo" not in encoded.encodings.values())
        proof.check_again(sparse, batches, outputs)
        size, dense_size = onnx_files.size(sparse), onnx_files.size(twin)
        folder.publish([output.name, *([twin_name] if settings.twin else [])])

    masked = [weight for weight in weights if weight.masked]
    untried = bool(islands) and proved.kernels_max_rel_error is None
    zeros = sum(weight.active - weight.nonzero for weight in masked)
    beyond_limit = sum(tensor.bytes - tensor.limit_bytes for tensor in encoded.tensors)
    beyond_limit += model.ByteSize() - encoded.model.ByteSize()  # what islands take
    vanished = weight_matching.nonzero(exact.graph, scope) - weight_matching.nonzero(graph.graph, scope)
    return ExportReport(
        settings=settings,
        output=output,
        bytes=size,
        dense_bytes=dense_size,
        limit_bytes=size - encoded.shared_bytes - math.floor(beyond_limit),
        twin=twin_of(output) if settings.twin else None,
        parameters=sum(weight.parameters for weight in masked),
        active=sum(weight.active for weight in masked),
        zeros=zeros,
        encodings=encoded.encodings,
        islands=islands,
        opset=traced.model.opset_imports[""],
        proof=proved,
        origin=origin,
        compaction=compacted,
        remarks=(
            *encoded.remarks,
            *_remarks(zeros, vanished, traced.unused, proved),
            *([f"what the sparse kernels compute was not compared: {MISSING}"] if untried else []),
            *_of_constants({name: masks[name] for name in traced.replaced}),
        ),
    )


def _batches(inputs: Example, network: Network, images: Callable[[], Dataset | None]) -> list[Batch]:
    """Random inputs, and real images where there are any."""
    shape = (network.in_channels, network.image_size, network.image_size)
    dataset = images() if [tuple(tensor.shape[1:]) for tensor in inputs] == [shape] else None
    return [examples.random_inputs(inputs), *([examples.real_images(dataset, network)] if dataset is not None else [])]


def _entries(
    origin: Origin,
    settings: ExportSettings,
    weights: Sequence[GraphWeight],
    encodings: Mapping[str, str],
    proved: Proof,
) -> dict[str, dict[str, Any]]:
    """The metadata of a file that stores its weights in ``encodings``, or dense."""
    return {
        metadata.CHECKPOINT: asdict(origin),
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


def _remarks(zeros: int, vanished: int, unused: Collection[str], proved: Proof) -> Iterator[str]:
    if zeros:
        yield f"active weights that are exactly zero, as those just grown are, and so are not stored: {zeros:,}"
    if vanished:
        yield f"weights too small for a graph in fp16, which become zero: {vanished:,}"
    if unused:
        yield f"left out, since the network does not use them in evaluation: {listing(sorted(unused), 3)}"
    if not proved.real:
        yield "compared on random inputs only, without images of the right kind; --data DIR names some"


def _of_constants(masks: Mapping[str, Tensor]) -> Iterator[str]:
    """Say which masked weights have only their result in the graph."""
    if masks:
        weights, active = sum(mask.numel() for mask in masks.values()), sum(int(mask.sum()) for mask in masks.values())
        yield (
            "stored as what they compute, which is the same for every input: "
            f"weights of {listing(masks, 3)}, {weights:,} in all and {active:,} of them active"
        )
