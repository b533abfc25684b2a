"""ONNX Runtime sessions: opened at a level of optimisation, run, and looked at after optimisation.

Its errors become ours, and nothing is printed. Two things are known of it that others trip over: a provider that is not
there is replaced by the CPU without a word, and saving the optimised graph inflates every encoded weight.
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

Level = Literal["disabled", "basic", "extended", "all"]
"""How much ONNX Runtime rewrites a graph; constants, and so our decoders, are folded from basic on."""

CPU = "CPUExecutionProvider"

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_ERRORS, _NOTHING = 3, 4
_INSERTED = "InsertedPrecisionFreeCast_"
"""How ONNX Runtime calls a Cast of its own, around operators that a provider has in fp32 only."""


class OnnxSession:
    """A model that can be run.

    Attributes:
        inputs: names of its inputs, in order.
        shapes: their shapes; a name where a dimension is free.
        outputs: names of its outputs, in order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, where: str) -> None:
        self._session, self._where = session, where
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.shapes = tuple(tuple(node.shape) for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for these inputs, both in the order of the model.

        Raises:
            ModelError: ONNX Runtime refuses the inputs, or fails.
        """
        if len(arrays) != len(self.inputs):
            raise ModelError("another number of inputs", where=self._where, got=len(arrays), expected=len(self.inputs))
        try:
            return [np.asarray(x) for x in self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))]
        except Exception as error:  # it raises a dozen classes that have nothing else in common
            raise ModelError("ONNX Runtime could not run the model", where=self._where, got=_told(error)) from error


def open_session(
    path: str | os.PathLike[str],
    *,
    level: Level = "all",
    provider: str = CPU,
    options: Mapping[str, str] | None = None,
    optimised: Path | None = None,
    threads: int = 0,
) -> OnnxSession:
    """Opens the model in the file at ``path``.

    Args:
        path: an ONNX file; external data lie beside it.
        level: of optimisation.
        provider: where it runs. Only operators that the provider lacks run on the CPU.
        options: of the provider.
        optimised: a file for the graph as it is run; its tensors go to ``NAME.data`` beside it.
        threads: inside an operator; 0 leaves that to ONNX Runtime.

    Raises:
        UnknownNameError: no such level.
        DeviceError: the provider is not there.
        ModelError: ONNX Runtime cannot open the file.
    """
    if level not in get_args(Level):
        raise UnknownNameError("level of optimisation", level, get_args(Level))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS
    settings.graph_optimization_level = _LEVELS[level]
    settings.intra_op_num_threads = threads
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
        # Tensors apart: the graph is all we want to read, and with them it may be larger than a file can be.
        settings.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised.name}.data"
        )
    onnxruntime.set_default_logger_severity(_NOTHING)  # whatever it logs while it opens, it raises as well
    if provider not in onnxruntime.get_available_providers():
        raise _missing(provider)
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, providers=[(provider, dict(options or {}))])
    except Exception as error:  # as above
        raise ModelError("ONNX Runtime cannot open the model", where=os.fspath(path), got=_told(error)) from error
    if session.get_providers()[0] != provider:
        raise _missing(provider)
    return OnnxSession(session, os.fspath(path))


def unfolded(graph: onnx.GraphProto) -> list[str]:
    """Nodes that no input of the graph leads to: constants that are computed anew in every run.

    In a graph as ONNX Runtime runs it these are what is left of decoders, as ``OPERATOR NAME``. Casts that it inserted
    itself are none.
    """
    variable = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    left = []
    for node in graph.node:  # which are in topological order
        # Without any input, as random numbers are, or with a subgraph, which sees more than its inputs.
        free = not any(node.input) or any(attribute.type == attribute.GRAPH for attribute in node.attribute)
        if variable.intersection(node.input) or (free and node.op_type != "Constant"):
            variable.update(node.output)
        elif node.op_type != "Constant" and not node.name.startswith(_INSERTED):
            left.append(f"{node.op_type} {node.name}".strip())
    return left


def _missing(provider: str) -> DeviceError:
    return DeviceError(
        "ONNX Runtime cannot run there",
        where=provider,
        got=f"onnxruntime {onnxruntime.__version__}, built for {', '.join(onnxruntime.get_available_providers())}",
        remedy="its GPU build needs a GPU and the CUDA libraries that it was made for",
    )


def _told(error: Exception) -> str:
    """What ONNX Runtime says, without its prefix and the lines behind the first."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.removeprefix("[ONNXRuntimeError] : ").strip()
