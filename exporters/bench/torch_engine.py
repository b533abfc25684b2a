"""A checkpoint in torch: which variants make sense on this machine, and a network ready to be timed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.bench import inputs
from exporters.bench.protocol import Opened, Spec
from exporters.bench.two_of_four import is_two_of_four
from granet import flops
from granet.checkpoint import load
from granet.models import from_checkpoint

VARIANTS = ("eager", "channels_last", "compiled", "2:4")


@dataclass(frozen=True)
class TorchCheckpoint:
    """A checkpoint to be measured in torch.

    Attributes:
        path: of the checkpoint.
        confirmed: the network's factory, when it names code of the user's.
        impossible: variants that cannot run on this machine, and why.
        image: channels, height and width.
        flops: of one image, dense.
        active_flops: of one image, of active weights.
    """

    path: Path
    confirmed: str | None
    impossible: Mapping[str, str]
    image: tuple[int, int, int]
    flops: float
    active_flops: float

    @classmethod
    def read(cls, path: Path, provider: str, *, confirmed: str | None = None) -> TorchCheckpoint:
        """Read the checkpoint at ``path`` and find out which variants can run on ``provider``.

        Raises:
            CheckpointError: not a sound checkpoint.
            ModelError: its network cannot be built, or its code was not confirmed.
        """
        checkpoint = load(path)
        network = checkpoint.network
        model = from_checkpoint(checkpoint, factory=confirmed)
        image = (network.in_channels, network.image_size, network.image_size)
        density = {name: float(mask.float().mean()) for name, mask in checkpoint.masks.items()}
        costs = flops.layers(model, image)
        reasons = {"compiled": _why_not_compiled(provider), "2:4": _why_not_two_of_four(model, provider)}
        return cls(
            path=path,
            confirmed=confirmed,
            impossible={variant: reason for variant, reason in reasons.items() if reason},
            image=image,
            flops=sum(costs.values()),
            active_flops=sum(cost * density.get(name, 1.0) for name, cost in costs.items()),
        )

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants that can run."""
        return tuple(variant for variant in VARIANTS if variant not in self.impossible)


def open_engine(spec: Spec) -> tuple[Opened, Callable[[], object]]:
    """Build the network and run it once; return what that took and the function to time.

    As ``onnx_engine.open_engine``: inputs lie on the device unless copies are to be timed, and a call returns when its
    results are there. With the variant ``compiled`` the first run compiles.

    Raises:
        GranetError: the checkpoint cannot be read or its network not be built.
        MemoryError: it does not fit.
    """
    torch.set_num_threads(spec.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = spec.precision == "tf32"
    torch.backends.cudnn.benchmark = True  # as cudnn_conv_algo_search=EXHAUSTIVE of ONNX Runtime
    device = torch.device("cpu" if spec.provider == "cpu" else "cuda")
    dtype = torch.float16 if spec.precision == "fp16" else torch.float32
    begin = time.perf_counter()
    checkpoint = load(spec.path)
    network = checkpoint.network
    model = from_checkpoint(checkpoint, factory=spec.confirmed).eval().requires_grad_(False).to(device, dtype)
    create_s = time.perf_counter() - begin
    size = (spec.batch, network.in_channels, network.image_size, network.image_size)
    array = inputs.draw("tensor(float)", size, key=0, where=spec.path)
    images = torch.from_numpy(array).to(device, dtype)
    if spec.variant == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        images = images.contiguous(memory_format=torch.channels_last)
    if spec.variant == "2:4":
        _make_semi_structured(model)
    compiled: Any = torch.compile(model, dynamic=False) if spec.variant == "compiled" else model

    @torch.inference_mode()
    def run() -> Tensor:
        output: Tensor = compiled(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return output

    @torch.inference_mode()
    def run_with_copies() -> Any:
        return compiled(torch.from_numpy(array).to(device, dtype)).cpu().numpy()

    chosen: Callable[[], object] = run_with_copies if spec.with_copies else run
    begin = time.perf_counter()
    chosen()
    first_run_s = time.perf_counter() - begin
    options = {
        "torch": torch.__version__,
        "variant": spec.variant,
        "dtype": str(dtype).removeprefix("torch."),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "allow_tf32": str(torch.backends.cudnn.allow_tf32),
    }
    return Opened(create_s, first_run_s, f"torch {device.type}", options), chosen


def takes_two_of_four(weight: Tensor) -> bool:
    """Return whether torch's 2:4 kernels take a linear weight: its pattern, and its size [32 n, 64 m]."""
    rows, columns = weight.shape
    return rows % 32 == columns % 64 == 0 and is_two_of_four(weight.detach().cpu().numpy())


def _make_semi_structured(model: nn.Module) -> None:
    """Store the linear weights that fit in the format of sparse tensor cores, in place."""
    from torch.sparse import to_sparse_semi_structured

    for module in model.modules():
        if isinstance(module, nn.Linear) and takes_two_of_four(module.weight):
            sparse = to_sparse_semi_structured(module.weight.detach())
            module.weight = nn.Parameter(sparse, requires_grad=False)


def _why_not_compiled(provider: str) -> str | None:
    if provider == "cpu" and not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++"]))):
        return "torch.compile needs a C++ compiler on the CPU, and there is none"
    if provider != "cpu" and find_spec("triton") is None:
        return "torch.compile needs Triton on CUDA, and it is not installed"
    return None


def _why_not_two_of_four(model: nn.Module, provider: str) -> str | None:
    if provider == "cpu":
        return "torch has 2:4 semi-structured kernels for CUDA only"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return "2:4 semi-structured kernels need a GPU of compute capability 8.0 or newer, and a CUDA build of torch"
    if not any(takes_two_of_four(module.weight) for module in model.modules() if isinstance(module, nn.Linear)):
        return (
            "torch's 2:4 kernels take linear layers, and no linear weight here has two zeros in every four inputs and "
            "sizes that are multiples of 32 and 64"
        )
    return None
