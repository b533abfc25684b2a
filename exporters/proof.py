"""Prove that an exported file computes what the checkpoint's network computes.

A chain of comparisons, each as strict as possible:

    torch network  ~  graph in fp32, in ONNX Runtime     within the rounding of fp32
    its weights    ~  weights that the file decodes to   within the stored precision, value by value
    dense twin     =  the file, in ONNX Runtime          bit by bit, at two levels of optimisation
    torch network  ~  the file, in ONNX Runtime          within a tolerance for its precision

The dense twin is the file's own graph with the decoded weights as plain initializers. Moreover, ONNX Runtime has to
fold all decoders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from exporters import onnx_files, runtime, tracing
from exporters.compaction.proof import largest_difference
from exporters.encoding.values import LARGEST_FP16
from exporters.examples import Batch
from exporters.runtime import Level, OnnxSession
from granet.errors import ModelError

Outputs = list[list[NDArray[Any]]]
"""For each part of each batch, the outputs of the model."""

LEVELS: tuple[Level, ...] = ("basic", "all")

TOLERANCES = {"fp32": 2.0**-13, "fp16": 0.05, "int8": 0.5}
"""The largest difference between torch and the file, over the largest output of torch, by the coarsest number format.

fp32: torch and ONNX Runtime add products in different orders, and batch norms are folded. The error of a sum of n terms
grows like sqrt(n) units of 2^-23, that of k layers like sqrt(k) of those; with n = 4608 and k = 50 that is some 500
units, and 1024 are allowed.

fp16: rounding a weight errs by at most 2^-11 of it; 50 layers of independent errors make 0.0035 of the output, and
activations in fp16 as much again. int8: a step is 1/127 of the largest weight of a channel, about 0.01 of the output of
a layer and 0.07 of that of 50. Both get about ten times that: networks amplify, and how much depends on the network.
They separate a broken model from a coarse one; the reported figures say what the precision costs.
"""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The results of all comparisons.

    Attributes:
        random: number of random inputs.
        real: number of real ones.
        source: the dataset of the real ones; None when there are none.
        max_abs_error: the largest difference between an output of torch and of the file.
        max_rel_error: that over the largest output of torch.
        tolerance: the limit of ``max_rel_error``.
        argmax_agreement: the share of inputs for which the largest logit is the same one; None when the first output is
            not a row of logits.
        bit_identical: levels of optimisation at which the file and its dense twin returned the same bits.
        unfolded: nodes of decoders in the optimised graphs, over all levels.
        kernels_max_rel_error: the largest difference between torch and the file with the sparse kernels, over the
            largest output of torch; None when the file has no islands, or the kernels are not installed.
    """

    random: int
    real: int
    source: str | None
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    argmax_agreement: float | None
    bit_identical: tuple[str, ...]
    unfolded: int
    kernels_max_rel_error: float | None = None


def reference(model: nn.Module, batches: Sequence[Batch], where: str) -> Outputs:
    """Return the outputs of the torch network on the CPU, in parts: a batch of one, and the rest.

    Raises:
        ModelError: it fails, its outputs vary from run to run, or are not finite.
    """
    parts = [part for batch in batches for part in _parts(batch)]
    outputs = [[output.detach().numpy() for output in tracing.run(model, part, where)] for part in parts]
    again = [output.detach().numpy() for output in tracing.run(model, parts[0], where)]
    if not _identical([again], outputs[:1]):
        raise ModelError(
            "the outputs of the torch network vary from run to run",
            where=where,
            remedy="let it draw no random numbers in evaluation mode, such as in a functional dropout",
        )
    for part_outputs in outputs:
        if not all(np.isfinite(output).all() for output in part_outputs if output.dtype.kind == "f"):
            raise ModelError(
                "the outputs of the torch network are not finite, so that nothing can be compared with them",
                where=where,
                remedy="granet verify finds weights that are not finite",
            )
    return outputs


def session_outputs(session: OnnxSession, batches: Sequence[Batch]) -> Outputs:
    """Return the outputs of a session, in the same parts."""
    return [session.run([tensor.numpy() for tensor in part]) for batch in batches for part in _parts(batch)]


def check_stored(exact: onnx.GraphProto, stored: onnx.GraphProto, precision: str) -> None:
    """Compare the weights that a file decodes to with those that were to be stored.

    In fp32 they are the same bits. In fp16 each is within half a unit in the last place, 2^-11 of its magnitude or,
    below the normal numbers, 2^-25. In int8 each is within half a step, 1/254 of the largest of its channel and so of
    its tensor, and rounding.

    Raises:
        ModelError: a weight is further away, not zero where the exact one is, or missing.
    """
    decoded = {tensor.name: tensor for tensor in stored.initializer}
    decoded |= {  # what an island held for itself, such as the shape that it flattens to
        node.output[0]: attribute.t
        for node in stored.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    for tensor in exact.initializer:
        values = numpy_helper.to_array(tensor)
        again = numpy_helper.to_array(decoded[tensor.name]) if tensor.name in decoded else None
        if again is None or again.dtype != values.dtype or again.shape != values.shape:
            raise ModelError("a tensor was lost in encoding", where=tensor.name)
        if values.tobytes() == again.tobytes():
            continue
        bits = np.dtype(f"u{values.itemsize}")
        wrong: NDArray[np.bool_] = values.view(bits) != again.view(bits)
        if precision != "fp32" and ir.DataType(tensor.data_type).is_floating_point():
            wide, wide_again = values.astype(np.float64), again.astype(np.float64)
            rounding = np.abs(wide) * float(np.finfo(values.dtype).eps)
            int8, fp16 = np.abs(wide).max() / 254 + rounding, np.maximum(np.abs(wide) * 2.0**-11, 2.0**-25)
            bound = int8 if precision == "int8" else fp16
            wrong = ~(np.abs(wide - wide_again) <= bound) | ((wide == 0) & (wide_again != 0))
        if wrong.any():
            raise ModelError(
                f"values that do not decode to the originals within the precision of {precision}",
                where=tensor.name,
                got=f"{np.count_nonzero(wrong)} of {values.size}",
            )


def check_graph(path: Path, batches: Sequence[Batch], expected: Outputs) -> None:
    """Compare the graph with its weights in fp32, whatever precision they will have, with torch.

    Raises:
        ModelError: it computes something else.
    """
    error = _error(session_outputs(runtime.open_session(path), batches), expected)
    _check_error(error, TOLERANCES["fp32"], "the exported graph")


def check_range(path: Path, batches: Sequence[Batch]) -> None:
    """Check that no intermediate value is beyond fp16, with a graph in fp32 that returns all of them.

    ONNX Runtime computes fp16 graphs in fp32 on the CPU, so that overflows of a GPU do not show there.

    Raises:
        ModelError: one is; it is named.
    """
    session = runtime.open_session(path)
    for batch in batches:
        for start in range(0, len(batch), 2):  # two inputs at a time: all values together take much memory
            outputs = session.run([tensor[start : start + 2].numpy() for tensor in batch.inputs])
            for name, output in zip(session.outputs, outputs, strict=True):
                if output.dtype != np.float32:
                    continue
                # Infinities of fp32, as of masks of attention, are infinities in fp16.
                if not (largest := np.abs(output[~np.isinf(output)]).max(initial=0)) <= LARGEST_FP16:
                    raise ModelError(
                        "an intermediate value of the network is beyond the range of fp16",
                        where=name,
                        got=f"{largest:g} on {batch.source}",
                        expected=f"at most {LARGEST_FP16:g}",
                        remedy="compute in fp32; --precision fp16 alone stores values in fp16",
                    )


def prove(
    path: Path, twin: Path, batches: Sequence[Batch], expected: Outputs, *, precision: str, scratch: Path
) -> tuple[Proof, Outputs]:
    """Compare the file with its dense twin and with the ``expected`` outputs of torch.

    ``precision`` is the coarsest number format: fp32, fp16 or int8. Optimised graphs in the folder ``scratch`` are
    removed again. Returns the proof, and the outputs of the file at the highest level of optimisation.

    Raises:
        ModelError: a comparison failed.
    """
    for level in LEVELS:
        given, left = _run(path, level, batches, scratch)
        control, twin_left = _run(twin, level, batches, scratch)
        # Constants that are left in the twin too are the network's own.
        if decoders := left - twin_left:
            raise ModelError(
                "ONNX Runtime does not fold the decoders of the weights",
                where=f"optimisation {level}",
                got=", ".join(sorted(decoders.elements())[:5]),
                remedy="choose another --encoding",
            )
        if not _identical(given, control):
            raise ModelError(
                "the file and its dense twin give different results",
                where=f"optimisation {level}",
                got=f"a difference of {_error(given, control)[0]:g}",
                expected="the same bits",
            )
    error = _error(given, expected)
    _check_error(error, TOLERANCES[precision], "the exported file")
    real = [batch for batch in batches if batch.source != "random"]
    proof = Proof(
        random=sum(len(batch) for batch in batches if batch.source == "random"),
        real=sum(map(len, real)),
        source=real[0].source if real else None,
        max_abs_error=error[0],
        max_rel_error=error[1],
        tolerance=TOLERANCES[precision],
        argmax_agreement=_top1_agreement(given, expected),
        bit_identical=LEVELS,
        unfolded=0,
    )
    return proof, given


def check_kernels(path: Path, batches: Sequence[Batch], expected: Outputs, *, precision: str) -> float:
    """Compare the file as the sparse kernels run it with torch; return the largest difference over the largest output.

    Raises:
        ModelError: they compute something else.
    """
    error = _error(session_outputs(runtime.open_session(path, kernels=True), batches), expected)
    _check_error(error, TOLERANCES[precision], "the exported file with the sparse kernels")
    return error[1]


def check_again(path: Path, batches: Sequence[Batch], given: Outputs) -> None:
    """Check that the final file, with its metadata, returns the outputs ``given``.

    Raises:
        ModelError: it does not.
    """
    if not _identical(session_outputs(runtime.open_session(path), batches), given):
        raise ModelError("the finished file gives other results than the one that was proved", where=path.name)


def _parts(batch: Batch) -> list[tuple[torch.Tensor, ...]]:
    """Two batch sizes, neither of which the network was traced with."""
    return [tuple(tensor[:1] for tensor in batch.inputs), tuple(tensor[1:] for tensor in batch.inputs)]


def _run(path: Path, level: Level, batches: Sequence[Batch], scratch: Path) -> tuple[Outputs, Counter[str]]:
    """The outputs, and by operator the constants that the optimised graph computes in every run."""
    optimised = scratch / "optimised.onnx"
    try:
        given = session_outputs(runtime.open_session(path, level=level, optimised=optimised), batches)
        graph = onnx_files.read(optimised, external=False).graph
    finally:
        for file in scratch.glob("optimised.onnx*"):
            file.unlink()
    return given, Counter(node.partition(" ")[0] for node in runtime.unfolded(graph))


def _identical(left: Outputs, right: Outputs) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for ours, theirs in zip(left, right, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def _error(given: Outputs, expected: Outputs) -> tuple[float, float]:
    """The largest difference, and the largest over the greatest magnitude of the same output of the model.

    Both are infinite where shapes differ or something is not a number.
    """
    worst, relative = 0.0, 0.0
    for ours, theirs in zip(zip(*given, strict=True), zip(*expected, strict=True), strict=True):  # of each output
        difference, magnitude = largest_difference(ours, theirs)
        if difference:
            worst = max(worst, difference)
            relative = max(relative, difference / magnitude if magnitude else math.inf)
    return worst, relative


def _check_error(error: tuple[float, float], tolerance: float, what: str) -> None:
    if not error[1] <= tolerance:
        raise ModelError(
            f"{what} does not compute what the torch network computes",
            got=f"a difference of {error[0]:g}, {error[1]:g} of the largest output",
            expected=f"at most {tolerance:g} of it",
        )


def _top1_agreement(given: Outputs, expected: Outputs) -> float | None:
    pairs = [(ours[0], theirs[0]) for ours, theirs in zip(given, expected, strict=True)]
    if any(theirs.ndim != 2 for _, theirs in pairs):
        return None
    same = [bool(flag) for ours, theirs in pairs for flag in ours.argmax(1) == theirs.argmax(1)]
    return sum(same) / len(same)
