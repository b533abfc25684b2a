"""What the measuring process and its workers say to each other: one JSON object a line, a question and its answer.

Nothing is pickled and nothing but names, numbers and paths is exchanged, so that a worker that an untrusted file has
brought down, or taken over, has little to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
    """What one worker runs: everything that a fresh process needs to know.

    Attributes:
        engine: what runs the file.
        path: an ONNX file or a checkpoint.
        provider: name of ours: cpu, cuda or tensorrt.
        options: of ONNX Runtime's provider, as it spells them.
        inputs: of an ONNX file.
        batch: images at a time.
        shape: sizes of an image where the file leaves them open, else empty.
        threads: that compute within an operator.
        precision: fp32, tf32 or fp16.
        with_copies: whether inputs start, and outputs end, in NumPy arrays.
        variant: of the torch engine: eager, compiled, channels_last or 2:4.
        confirmed: the network's factory, when a checkpoint names code of the user's.
        memory: bytes that the process may fill, None for no limit.
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

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Spec:
        """The spec that ``plain`` and JSON made a dictionary of."""
        return cls(**{**value, "shape": tuple(value["shape"]), "inputs": read_inputs(value["inputs"])})

    def plain(self) -> dict[str, Any]:
        """As JSON can say it."""
        return asdict(self)


@dataclass(frozen=True)
class Opened:
    """What a worker knows once it has run for the first time.

    Attributes:
        create_s: seconds that making the session, or the network, took.
        first_run_s: seconds of the first run, in which kernels are chosen or compiled.
        provider: that the session names first.
        options: of that provider, as they are in force.
    """

    create_s: float
    first_run_s: float
    provider: str
    options: Mapping[str, str]


def read_inputs(values: list[dict[str, Any]]) -> tuple[Input, ...]:
    """The inputs that JSON made dictionaries of."""
    return tuple(Input(value["name"], value["type"], tuple(value["shape"])) for value in values)


def write(stream: IO[str], message: Mapping[str, Any]) -> None:
    """One message, at once."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()
