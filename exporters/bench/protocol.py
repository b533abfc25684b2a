"""Messages between the measuring process and its workers: one JSON object per line, a question and its answer.

Nothing is pickled, and only names, numbers and paths are exchanged, so that a worker that an untrusted file has crashed
or taken over can say little. Workers do not import ``granet``, which brings torch along: seconds and hundreds of
megabytes in each fresh process that is to be measured. So what they refuse travels as text, see ``Refusal``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal

Engine = Literal["onnx", "torch"]

NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our name of a provider -> ONNX Runtime's."""


@dataclass(frozen=True)
class Input:
    """An input as a file declares it.

    Attributes:
        name: by which it is fed.
        type: as ONNX Runtime calls it, such as ``tensor(float)``.
        shape: a name, or None, where a size is open.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that a worker needs to know to run a file.

    Attributes:
        engine: what runs the file.
        path: an ONNX file or a checkpoint.
        provider: cpu, cuda or tensorrt.
        options: of ONNX Runtime's provider, as it spells them.
        inputs: of an ONNX file.
        batch: images at a time.
        shape: sizes of an image where the file leaves them open, else empty.
        threads: that compute within an operator.
        precision: fp32, tf32 or fp16.
        with_copies: whether inputs start, and outputs end, in NumPy arrays.
        variant: of the torch engine: eager, compiled, channels_last or 2:4.
        confirmed: the network's factory, when a checkpoint names code of the user's.
        memory: bytes that the process may allocate, None for no limit.
        kernels: library of sparse kernels that ONNX Runtime registers, None for none.
    """

    engine: Engine
    path: str
    provider: str
    options: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    batch: int = 1
    shape: tuple[int, ...] = ()
    threads: int = 1
    precision: str = "fp32"
    with_copies: bool = False
    variant: str = ""
    confirmed: str | None = None
    memory: int | None = None
    kernels: str | None = None

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Spec:
        """Return the spec that ``asdict`` and JSON made a dictionary of."""
        inputs = (Input(node["name"], node["type"], tuple(node["shape"])) for node in value["inputs"])
        return cls(**{**value, "shape": tuple(value["shape"]), "inputs": tuple(inputs)})


@dataclass(frozen=True)
class Opened:
    """A session or network that has run for the first time.

    Attributes:
        create_s: seconds to make the session or the network.
        first_run_s: seconds of the first run, in which kernels are chosen or compiled.
        provider: the first one that the session names.
        options: of that provider, as they are in force.
    """

    create_s: float
    first_run_s: float
    provider: str
    options: Mapping[str, str]


class Refusal(Exception):  # noqa: N818  it becomes an error where it arrives
    """Something that a worker cannot do: the name of a class of ``granet.errors``, and its arguments as text."""

    def __init__(
        self,
        kind: Literal["UsageError", "ModelError", "BenchmarkError"],
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        details = {"where": where, "got": got, "expected": expected, "remedy": remedy}
        self.kind, self.what = kind, what
        self.details = {name: str(value) for name, value in details.items() if value is not None}
        super().__init__(what)


def write(stream: IO[str], message: Mapping[str, Any]) -> None:
    """Write one message and flush it."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()
