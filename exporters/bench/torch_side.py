"""A checkpoint measured in torch, next to the ONNX files: which variants make sense here, and why others do not."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from exporters.bench.report import Skipped
from granet import flops
from granet.checkpoint import load
from granet.models import from_checkpoint

VARIANTS = ("eager", "channels_last", "compiled", "2:4")


@dataclass(frozen=True)
class TorchSide:
    """What is to be measured of a checkpoint.

    Attributes:
        path: of the checkpoint.
        confirmed: the network's factory, when it names code of the user's.
        variants: that make sense here.
        skipped: the others, with reasons.
        image: channels, height and width.
        flops: of one image, dense.
        active_flops: of one image, of active weights.
    """

    path: Path
    confirmed: str | None
    variants: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    image: tuple[int, int, int]
    flops: float
    active_flops: float

    @classmethod
    def of(cls, path: Path, provider: str, *, confirmed: str | None = None) -> TorchSide:
        """Looks into the checkpoint and around on this machine.

        Raises:
            CheckpointError: not a sound checkpoint.
            ModelError: its network cannot be built, or its code was not confirmed.
        """
        checkpoint = load(path)
        network = checkpoint.network
        model = from_checkpoint(checkpoint, factory=confirmed)
        image = (network.in_channels, network.image_size, network.image_size)
        density = {name: float(mask.float().mean()) for name, mask in checkpoint.masks.items()}
        known = flops.layers(model, image)
        reasons = {
            "compiled": _why_not_compiled(provider),
            "2:4": _why_not_two_of_four(model, provider),
        }
        return cls(
            path=path,
            confirmed=confirmed,
            variants=tuple(name for name in VARIANTS if not reasons.get(name)),
            skipped=tuple(Skipped(f"torch {name}", reason) for name, reason in reasons.items() if reason),
            image=image,
            flops=sum(known.values()),
            active_flops=sum(cost * density.get(name, 1.0) for name, cost in known.items()),
        )


def _why_not_compiled(provider: str) -> str | None:
    if provider == "cpu" and not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++"]))):
        return "torch.compile needs a C++ compiler on the CPU, and there is none"
    if provider != "cpu" and find_spec("triton") is None:
        return "torch.compile needs Triton on CUDA, and it is not installed"
    return None


def _why_not_two_of_four(model: object, provider: str) -> str | None:
    from torch import cuda, nn

    from exporters.bench.torch_engine import fits_two_of_four

    if provider == "cpu":
        return "torch has 2:4 semi-structured kernels for CUDA only"
    if not cuda.is_available() or cuda.get_device_capability() < (8, 0):
        return "2:4 semi-structured kernels need a GPU of compute capability 8.0 or newer, and a CUDA build of torch"
    linear = (
        [module for module in model.modules() if isinstance(module, nn.Linear)] if isinstance(model, nn.Module) else []
    )
    if not any(fits_two_of_four(module.weight.detach()) for module in linear):
        return (
            "torch's 2:4 kernels take linear layers, and no linear weight here has two zeros in every four inputs and "
            "sizes that are multiples of 32 and 64"
        )
    return None
