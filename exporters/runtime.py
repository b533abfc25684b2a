"""ONNX Runtime sessions: open one at a level of optimisation, run it, and read the graph that it runs.

Errors of ONNX Runtime become ours, and it prints nothing. It replaces a missing provider by the CPU without a message,
which is an error here. Saving the optimised graph decodes every encoded weight.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from granet.errors import DeviceError, ModelError, UnknownNameError
from granet.kernels import library

Level = Literal["disabled", "basic", "extended", "all"]
"""How much ONNX Runtime optimises a graph; from basic on it folds constants, and with them our decoders."""

CPU = "CPUExecutionProvider"

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_INSERTED = "InsertedPrecisionFreeCast_"
"""The prefix of Casts that ONNX Runtime inserts around operators that a provider has in fp32 only."""


class OnnxSession:
    """An open model.

    Attributes:
        inputs: names of its inputs, in order.
        shapes: of its inputs; a name where a dimension is free.
        outputs: names of its outputs, in order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, where: str) -> None:
        self._session, self._where = session, where
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.shapes = tuple(tuple(node.shape) for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for these inputs, both in the order of the model.

        Raises:
            ModelError: ONNX Runtime refuses the inputs, or fails.
        """
        if len(arrays) != len(self.inputs):
            raise ModelError("another number of inputs", where=self._where, got=len(arrays), expected=len(self.inputs))
        try:
            return [np.asarray(x) for x in self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))]
        except Exception as error:  # it raises a dozen classes that have nothing else in common
            raise ModelError(
                "ONNX Runtime could not run the model", where=self._where, got=first_line(error)
            ) from error


def open_session(
    path: str | os.PathLike[str],
    *,
    level: Level = "all",
    provider: str = CPU,
    options: Mapping[str, str] | None = None,
    optimised: Path | None = None,
    threads: int = 0,
    kernels: bool = False,
) -> OnnxSession:
    """Open the model in the file at ``path``, with external data in the same folder.

    Operators that the provider lacks run on the CPU. The optimised graph is written to the file ``optimised``, its
    tensors to ``NAME.data`` in the same folder. ``threads`` are those inside an operator; 0 is ONNX Runtime's choice.
    With ``kernels`` islands of sparse layers run by granet's own.

    Raises:
        UnknownNameError: no such level.
        UsageError: the kernels are not installed.
        DeviceError: the provider is not there.
        ModelError: ONNX Runtime cannot open the file.
    """
    if level not in get_args(Level):
        raise UnknownNameError("level of optimisation", level, get_args(Level))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.graph_optimization_level = _LEVELS[level]
    settings.intra_op_num_threads = threads
    if kernels:
        library.register(settings)
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
        # Tensors in another file: only the graph is read, and with them it may be larger than a file can be.
        settings.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised.name}.data"
        )
    onnxruntime.set_default_logger_severity(4)  # nothing: what it logs while it opens, it raises as well
    if provider not in onnxruntime.get_available_providers():
        raise _missing(provider)
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, providers=[(provider, dict(options or {}))])
    except Exception as error:  # as above
        raise ModelError("ONNX Runtime cannot open the model", where=os.fspath(path), got=first_line(error)) from error
    if session.get_providers()[0] != provider:
        raise _missing(provider)
    return OnnxSession(session, os.fspath(path))


def unfolded(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes, as ``OPERATOR NAME``, that depend on no input: constants that are computed in every run.

    In a graph as ONNX Runtime runs it these belong to decoders that it did not fold. Casts that it inserted itself do
    not count.
    """
    variable = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    found = []
    for node in graph.node:  # which are in topological order
        # Random numbers have no inputs, and subgraphs read more than their inputs.
        may_vary = not any(node.input) or any(attribute.type == attribute.GRAPH for attribute in node.attribute)
        if variable.intersection(node.input) or (may_vary and node.op_type != "Constant"):
            variable.update(node.output)
        elif node.op_type != "Constant" and not node.name.startswith(_INSERTED):
            found.append(f"{node.op_type} {node.name}".strip())
    return found


def _missing(provider: str) -> DeviceError:
    return DeviceError(
        "ONNX Runtime cannot run there",
        where=provider,
        got=f"onnxruntime {onnxruntime.__version__}, built for {', '.join(onnxruntime.get_available_providers())}",
        remedy="its GPU build needs a GPU and the CUDA libraries that it was made for",
    )


def first_line(error: Exception) -> str:
    """Return the first line of a message, without ONNX Runtime's prefix."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.removeprefix("[ONNXRuntimeError] : ").strip()
