"""A checkpoint in torch, ready to be timed. Imported by workers only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from exporters.bench import inputs
from exporters.bench.protocol import Opened, Spec
from granet.checkpoint import load
from granet.models import from_checkpoint


def open_engine(spec: Spec) -> tuple[Opened, Callable[[], object]]:
    """Builds the network, runs it once, and returns what that took and the function to be timed.

    As ``onnx_engine.open_engine``: inputs lie on the device unless copies are to be counted, and a call returns when
    its results are there. The first run compiles, where the variant is ``compiled``.

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
        _semi_structured_(model)
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


def fits_two_of_four(weight: Tensor) -> bool:
    """Whether a linear weight has at most two values in each four inputs in a row, and a size that the kernels take."""
    rows, columns = weight.shape
    if rows % 32 or columns % 64:
        return False
    return bool((weight.reshape(-1, 4).count_nonzero(dim=1) <= 2).all())


def _semi_structured_(model: nn.Module) -> None:
    """Stores the linear weights that fit as sparse tensor cores take them."""
    from torch.sparse import to_sparse_semi_structured

    for module in model.modules():
        if isinstance(module, nn.Linear) and fits_two_of_four(module.weight):
            sparse = to_sparse_semi_structured(module.weight.detach())
            module.weight = nn.Parameter(sparse, requires_grad=False)
