"""The device of a run, the number format and memory layout it computes in, and its kernels."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import nn

from granet.errors import DeviceError, UsageError, counted
from granet.models import CATALOG

Precision = Literal["fp32", "bf16", "fp16"]
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""By the name that a recipe calls them."""


def resolve_device(name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; auto is CUDA where there is a GPU.

    Raises:
        DeviceError: CUDA is not available, there are not that many GPUs, or the name is unknown.
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
    """Return the name of a GPU, or the number of threads of a CPU, for display."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {counted(threads, 'thread')}"


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """Return the number format of a run; ``auto`` is bf16 on a GPU that has it and fp32 elsewhere.

    Raises:
        UsageError: fp16 on the CPU, where it is slower and of no use, or an unknown precision.
    """
    if asked == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and device.type == "cpu":
        raise UsageError("fp16 training needs a GPU", where="training.precision", got="cpu", remedy="use fp32 or bf16")
    if asked not in ("fp32", "bf16", "fp16"):
        raise UsageError("unknown precision", where="training.precision", got=repr(asked))
    return asked  # type: ignore[return-value]  # narrowed by the line above


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context of ``precision``, which does nothing for fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def resolve_memory_format(asked: str | None, device: torch.device, model: str) -> torch.memory_format:
    """Return the memory format of images; None asks for the fastest that the network is known to take.

    On a GPU that is channels_last, for weights too. On a CPU granet's own networks take images as they are stored
    (preserve_format). All others get them contiguous, since ``view`` fails on a convolution's output in channels_last.
    """
    if asked is not None:
        return MEMORY_FORMATS[asked]
    if device.type == "cuda":
        return torch.channels_last
    return torch.preserve_format if model in CATALOG else torch.contiguous_format


def move_model(model: nn.Module, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    """Move ``model`` to ``device``, its weights in channels_last where images are, and return it."""
    model = model.to(device)
    return lay_out(model, memory_format) if memory_format is torch.channels_last else model


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Bring weights of four dimensions into a memory format, in place, and return ``model``.

    ``Module.to`` tries it with those of five dimensions too, which have no channels_last.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return model


def reading_waits(device: torch.device) -> bool:
    """Return whether reading a value from ``device`` waits for work queued there; on the CPU nothing is queued."""
    return device.type != "cpu"


def seed(device: torch.device, key: int) -> None:
    """Seed torch's generators for the CPU and for ``device``.

    ``torch.manual_seed`` seeds every kind of device, and records a stack trace for those that are not initialised,
    which costs a small network a tenth of its step.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[number].manual_seed(key)


def set_determinism(*, deterministic: bool) -> None:
    """Switch deterministic kernels on or off, for the whole process; matrix products on a GPU may use TF32 either way.

    Deterministic kernels make a resumed run on CUDA bit-identical to one that never stopped; on the CPU it is so
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
