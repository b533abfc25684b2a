"""A network as torch's exporter writes it down: an ONNX graph with a free batch size.

torch prints and warns on the way, and wraps what went wrong in advice for its own developers; all of that is kept
from the user but the one sentence that matters.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from granet.checkpoint import Checkpoint
from granet.errors import CheckpointError, ModelError, UsageError
from granet.models import from_checkpoint
from granet.models.factory import call

Example = tuple[Tensor, ...]

BATCH = "batch"
"""What the free dimension is called."""


@dataclass(frozen=True)
class Traced:
    """A network as an ONNX graph.

    Attributes:
        model: the graph, with the network's own names for its weights.
        unused: parameters that have no part in what the network computes in evaluation mode; the graph lacks them.
    """

    model: ir.Model
    unused: frozenset[str]


def network(checkpoint: Checkpoint, *, factory: str | None = None, trial: bool = True) -> nn.Module:
    """The network of a checkpoint with its masked weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: may come from anybody.
        factory: confirms code to run, see :func:`granet.models.from_checkpoint`.
        trial: False for networks that take something else than a batch of images, or give something else than logits.

    Raises:
        ModelError: the network cannot be built, or does not fit the weights.
        CheckpointError: a weight is not zero where its mask says so.
    """
    model = from_checkpoint(checkpoint, factory=factory, trial=trial).eval()
    for name, mask in checkpoint.masks.items():
        stray = int((model.get_parameter(name).detach().ne(0) & ~mask).sum())
        if stray:
            raise CheckpointError("weights that are not zero outside their mask", where=name, got=stray, expected=0)
    return model


def example_of(checkpoint: Checkpoint, factory: str | None) -> Example:
    """Inputs to trace with: blank images, or what ``package.module:factory`` returns, a tensor or a tuple of them.

    The first dimension of each is the batch, of one size for all. A batch of one is doubled: torch would take the
    size 1 for a constant.

    Raises:
        UsageError: the factory's name is malformed, or what it returns is no such tuple.
        ModelError: the factory is not there or fails.
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
    """The tensors that the network returns, however nested, in the order in which the graph has them.

    Raises:
        ModelError: the network fails, or returns something else.
    """
    try:
        with torch.no_grad():
            outputs = pytree.tree_leaves(model(*inputs))
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ModelError(
            f"the network cannot take inputs of {shapes}", where=where, got=f"{type(error).__name__}: {error}"
        ) from error
    if not outputs or not all(isinstance(output, Tensor) for output in outputs):
        kinds = sorted({type(output).__name__ for output in outputs})
        raise ModelError("outputs that are not tensors", where=where, got=", ".join(kinds) or "nothing")
    return outputs


def trace(model: nn.Module, example: Example, *, where: str, opset: int | None = None) -> Traced:
    """The graph of ``model``, which is in evaluation mode.

    A single input is called ``images``, several ``input_0`` and so on; a single output of two dimensions ``logits``,
    others ``output_0`` and so on.

    Args:
        model: the network.
        example: inputs, with the same batch size of at least 2 in all of them.
        where: what the network is called, for messages.
        opset: the version of the standard operators; None for torch's choice.

    Raises:
        ModelError: the network cannot take the example, or torch cannot write it down.
        UsageError: torch did not honour the opset.
    """
    outputs = run(model, example, where)
    batch = torch.export.Dim(BATCH)
    names = [f"output_{index}" for index in range(len(outputs))]
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example),
                input_names=["images"] if len(example) == 1 else [f"input_{n}" for n in range(len(example))],
                output_names=["logits"] if len(outputs) == 1 and outputs[0].dim() == 2 else names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # of many kinds: the exporter's own and whatever the network raises in between
        raise ModelError(
            "torch cannot write this network down as ONNX with a free batch size",
            where=where,
            got=_reason(error),
            remedy="replace that part of the network by operations that torch.onnx.export knows",
        ) from error
    assert program is not None  # noqa: S101  it is with dynamo, and so is the program that it exported
    assert program.exported_program is not None  # noqa: S101
    honoured = program.model.opset_imports[""]
    if opset not in (None, honoured):
        raise UsageError(
            "torch did not write this network in the opset asked for",
            where="--opset",
            got=f"{honoured} instead of {opset}",
            expected="18 or newer" if opset is not None and opset < 18 else None,
            remedy="leave the choice to torch, or ask for another one",
        )
    return Traced(program.model, _unused(program.exported_program, model))


def _unused(program: torch.export.ExportedProgram, model: nn.Module) -> frozenset[str]:
    """Parameters without a user in the program under any of their names, tied ones having several."""
    names: Mapping[str, str] = program.graph_signature.inputs_to_parameters
    users = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    used = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in users}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in used)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch says while it exports from the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            # torch 2.11 to 2.13 copy a class of their own that they have deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # And they tell that several inputs have one batch size, which is what was asked for.
            warnings.filterwarnings("ignore", f"# The axis name: {BATCH} will not be used", UserWarning)
            yield
    finally:
        logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """What began it, and of that the first paragraph."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    first = " ".join(text.partition("\n\n")[0].split())
    kind = type(error).__name__
    return f"{kind}: {first if len(first) <= 400 else first[:397] + '...'}" if first else kind
