"""Where a run computes and in which number format."""

from __future__ import annotations

import os
from typing import Literal

import torch

from granet.errors import DeviceError, UsageError

Precision = Literal["fp32", "bf16", "fp16"]


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for; auto is CUDA where there is one.

    Raises:
        DeviceError: CUDA, or that many devices, are not there; or an unknown name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise DeviceError("unknown device", where="device", got=repr(name), expected="auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        if not torch.cuda.is_available():
            built = torch.version.cuda
            reason = f"torch {torch.__version__} is a CPU build" if built is None else "no usable GPU was found"
            raise DeviceError(
                "CUDA is not available", where="device", got=f"{name!r}; {reason}", remedy="use --device cpu or auto"
            )
        if index and int(index) >= torch.cuda.device_count():
            raise DeviceError(
                "no such GPU", where="device", got=repr(name), expected=f"below {torch.cuda.device_count()}"
            )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device as a person would say it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """What ``auto`` means here: bf16 on a GPU that has it, fp32 otherwise.

    Raises:
        UsageError: fp16 on the CPU, where it is slower and has no use.
    """
    if asked == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and device.type == "cpu":
        raise UsageError("fp16 training needs a GPU", where="training.precision", got="cpu", remedy="use fp32 or bf16")
    if asked not in ("fp32", "bf16", "fp16"):
        raise UsageError("unknown precision", where="training.precision", got=repr(asked))
    return asked  # type: ignore[return-value]  # narrowed by the line above


def reading_waits(device: torch.device) -> bool:
    """Whether reading a number off ``device`` holds up the work queued there; on the CPU nothing is queued."""
    return device.type != "cpu"


def seed(device: torch.device, key: int) -> None:
    """Seeds the generators that a network on ``device`` draws from, those of torch for the CPU and for ``device``.

    ``torch.manual_seed`` does the same for every kind of device that torch knows, and takes notes of who asked for it
    for those that are not there, which costs a small network a tenth of its step.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[number].manual_seed(key)


def use_kernels(*, deterministic: bool) -> None:
    """Chooses, for the whole process, repeatable kernels or the fastest ones.

    Repeatable kernels make a resumed run on CUDA bit-identical to one that never stopped; on the CPU it is so
    anyway.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic or torch.are_deterministic_algorithms_enabled():  # turning off what is off imports a compiler
        torch.use_deterministic_algorithms(deterministic, warn_only=False)
    torch.backends.cudnn.benchmark = not deterministic
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
