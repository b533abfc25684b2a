"""Trace a network to an ONNX graph with a free batch size, using torch's exporter.

torch prints, warns, and wraps errors in advice for its own developers; users see only the sentence that matters.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from exporters.constant_parts import constant_layers
from granet.checkpoint import Checkpoint
from granet.errors import CheckpointError, ModelError, UsageError, shortened
from granet.files.user_code import described
from granet.models import from_checkpoint
from granet.models.factory import call

Example = tuple[Tensor, ...]

BATCH = "batch"
"""The name of the free dimension."""


@dataclass(frozen=True)
class Traced:
    """A network as an ONNX graph.

    Attributes:
        model: the graph, with the network's own names for its weights.
        unused: parameters that have no part in what the network computes in evaluation mode; the graph lacks them.
        constant: parameters of layers that see no input. The graph may have what they compute instead of them.
    """

    model: ir.Model
    unused: frozenset[str]
    constant: frozenset[str]


def network(checkpoint: Checkpoint, *, factory: str | None = None, trial: bool = True) -> nn.Module:
    """Return the network of a checkpoint with its masked weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: may be untrusted.
        factory: confirms code to run, see :func:`granet.models.from_checkpoint`.
        trial: False for networks that take something else than a batch of images, or return something else than logits.

    Raises:
        ModelError: the network cannot be built, or does not fit the weights.
        CheckpointError: a weight is not zero where its mask is not active.
    """
    model = from_checkpoint(checkpoint, factory=factory, trial=trial).eval()
    for name, mask in checkpoint.masks.items():
        outside = int((model.get_parameter(name).detach().ne(0) & ~mask).sum())
        if outside:
            raise CheckpointError("weights that are not zero outside their mask", where=name, got=outside, expected=0)
    return model


def example_of(checkpoint: Checkpoint, factory: str | None) -> Example:
    """Return inputs to trace with: blank images, or the tensors that ``package.module:factory`` returns.

    The first dimension of each is the batch, of one size for all. A batch of one is doubled: torch would take the
    size 1 for a constant.

    Raises:
        UsageError: the factory's name is malformed, or it returns something else.
        ModelError: the factory does not exist or fails.
    """
    if factory is None:
        size = checkpoint.network.image_size
        return (torch.zeros(2, checkpoint.network.in_channels, size, size),)
    found = call(factory)
    tensors = (found,) if isinstance(found, Tensor) else found
    expected = "a tensor or a tuple of tensors, the first dimension of each the batch"
    if not isinstance(tensors, tuple | list) or not tensors or not all(isinstance(x, Tensor) for x in tensors):
        raise UsageError("not an example of inputs", where=factory, got=type(found).__name__, expected=expected)
    sizes = {tuple(tensor.shape[:1]) for tensor in tensors}
    if len(sizes) > 1 or sizes <= {(), (0,)}:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise UsageError("not an example of inputs", where=factory, got=shapes, expected=expected)
    example = tuple(tensor.detach().cpu() for tensor in tensors)
    return tuple(torch.cat([tensor, tensor]) for tensor in example) if sizes == {(1,)} else example


def run(model: nn.Module, inputs: Example, where: str) -> list[Tensor]:
    """Return the outputs of the network, nested ones flattened, in the order of the graph's outputs.

    Raises:
        ModelError: the network fails, or returns something else.
    """
    try:
        with torch.no_grad():
            outputs = pytree.tree_leaves(model(*inputs))
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ModelError(f"the network cannot take inputs of {shapes}", where=where, got=described(error)) from error
    if not outputs or not all(isinstance(output, Tensor) for output in outputs):
        types = sorted({type(output).__name__ for output in outputs})
        raise ModelError("outputs that are not tensors", where=where, got=", ".join(types) or "nothing")
    return outputs


def trace(model: nn.Module, example: Example, *, where: str, opset: int | None = None) -> Traced:
    """Return the graph of a network in evaluation mode.

    A single input is called ``images``, several ``input_0`` and so on; a single output of two dimensions ``logits``,
    others ``output_0`` and so on.

    Inputs of the example have the same batch size of at least 2. ``where`` names the network in messages; without
    ``opset`` torch chooses the version of the standard operators.

    Raises:
        ModelError: the network cannot take the example, or torch cannot export it.
        UsageError: torch did not honour the opset.
    """
    outputs = run(model, example, where)
    batch = torch.export.Dim(BATCH)
    names = [f"output_{index}" for index in range(len(outputs))]
    settings: dict[str, Any] = {
        "dynamo": True,
        "dynamic_shapes": tuple({0: batch} for _ in example),
        "input_names": ["images"] if len(example) == 1 else [f"input_{n}" for n in range(len(example))],
        "output_names": ["logits"] if len(outputs) == 1 and outputs[0].dim() == 2 else names,
        "opset_version": opset,
        "verbose": False,
    }
    try:
        # Without gradients: torch chooses kernels of attention by whether they are needed, and not alike in all stages.
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(model, example, **settings)
            assert program is not None  # noqa: S101  it is with dynamo
            if _fixes_batch(program):  # as len(images) does, unless Python itself is traced
                with suppress(Exception):
                    strict = torch.export.export(model, example, dynamic_shapes=settings["dynamic_shapes"], strict=True)
                    program = torch.onnx.export(strict, **settings) or program
    except Exception as error:  # any class: the exporter's own, and whatever the network raises
        raise ModelError(
            "torch cannot export this network to ONNX with a free batch size",
            where=where,
            got=_reason(error),
            remedy="replace that part of the network by operations that torch.onnx.export supports",
        ) from error
    if _fixes_batch(program):
        raise ModelError(
            "the network fixes the number of images while torch traces it",
            where=where,
            got=f"{len(example[0])}, the number in the example",
            expected="a graph for any number of images",
            remedy="replace a loop over images by one operation on all of them or torch.vmap, and a number of images "
            "that the code fixes by images.shape[0]",
        )
    assert program.exported_program is not None  # noqa: S101  it has one when exported with dynamo
    honoured = program.model.opset_imports[""]
    if opset not in (None, honoured):
        raise UsageError(
            "torch did not write this network in the opset asked for",
            where="--opset",
            got=f"{honoured} instead of {opset}",
            expected="18 or newer" if opset is not None and opset < 18 else None,
            remedy="leave the choice to torch, or ask for another one",
        )
    read = _read(program.exported_program)
    constant = constant_layers(program.exported_program)
    return Traced(program.model, _without(model, read), _without(model, read - constant) - _without(model, read))


def _fixes_batch(program: torch.onnx.ONNXProgram) -> bool:
    """Whether torch gave up the free dimension of an input, which it does without a word."""
    shapes = (value.shape for value in program.model.graph.inputs)
    return any(shape is not None and isinstance(shape[0], int) for shape in shapes)


def _read(program: torch.export.ExportedProgram) -> set[str]:
    """Names of the parameters that the program reads."""
    names: Mapping[str, str] = program.graph_signature.inputs_to_parameters
    return {names[node.name] for node in program.graph.nodes if node.name in names and node.users}


def _without(model: nn.Module, read: Collection[str]) -> frozenset[str]:
    """Parameters that are ``read`` under none of their names, of which tied ones have several."""
    found = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in read}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what torch prints, logs and warns while it exports."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            # torch 2.11 to 2.13 copy a class of their own that they have deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # Recurrent layers hold their weights in a list as well, which torch sees change while it traces.
            warnings.filterwarnings("ignore", r"The tensor attributes .* were assigned during export", UserWarning)
            # And they warn that several inputs have one batch size, which is intended.
            warnings.filterwarnings("ignore", f"# The axis name: {BATCH} will not be used", UserWarning)
            yield
    finally:
        logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The first paragraph of the error that caused it, and the operator and line of code that torch names."""
    told = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        told.append(str(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", told[-1]).strip()
    first = " ".join(text.partition("\n\n")[0].split())
    reason = f"{type(error).__name__}: {shortened(first, 400)}" if first else type(error).__name__
    places = (
        ("operator", re.search(r"translating node [^\n]*?target=torch\.ops\.(\w+\.\w+)", "\n".join(told))),
        ("line", re.search(r"Caused by: \((?:\S*/)?(\S+:\d+ in [\w<>]+)\)", "\n".join(told))),
    )
    return reason + "".join(f", {what} {match[1]}" for what, match in places if match is not None)
