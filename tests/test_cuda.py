"""What has to hold on a GPU as it does on the CPU. Skipped without one; needs torch and NumPy, and says what else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import granet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 10))


def train(device: str, method: object, steps: int = 20) -> tuple[granet.Sparsifier, nn.Module]:
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = granet.Sparsifier(model, optimizer, method, total_steps=steps)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(8, 3, 8, 8, generator=generator).to(device)
        labels = torch.randint(10, (8,), generator=generator).to(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        sparsifier.step()
    return sparsifier, model


@pytest.mark.parametrize("name", ["GraNet", "RigL", "SET", "GMP"])
def test_cuda_density_is_exact_and_masked_weights_are_zero(name: str) -> None:
    kind = getattr(granet.methods, name)
    sparsifier, model = train("cuda", kind(density=0.1, interval=4))
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == round(0.1 * total)
    for key, mask in sparsifier.masks.items():
        assert not model.get_parameter(key).detach()[~mask.to("cuda")].any()


def test_cuda_random_masks_are_those_of_the_cpu() -> None:
    here, there = (train(device, granet.methods.Static(density=0.2), 2)[0] for device in ("cpu", "cuda"))
    assert all(torch.equal(mask, there.masks[name].cpu()) for name, mask in here.masks.items())


def test_cuda_selection_is_that_of_the_cpu() -> None:
    weights = {"a": torch.randn(64, 64), "b": torch.randn(1000)}
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in weights.items()}
    keep = sum(int(mask.sum()) for mask in masks.values()) // 3
    on_cpu = granet.topology.prune_to(weights, masks, keep)
    moved = [{name: tensor.cuda() for name, tensor in part.items()} for part in (weights, masks)]
    on_gpu = granet.topology.prune_to(*moved, keep)
    assert all(torch.equal(on_cpu[name], on_gpu[name].cpu()) for name in weights)


def test_cuda_batches_are_those_of_the_cpu() -> None:
    pytest.importorskip("PIL")
    from granet.data import make_pipeline
    from granet.data.dataset import Arrays, Dataset

    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    examples = Arrays(images, torch.arange(64) % 4)
    dataset = Dataset(
        name="made up",
        classes=("a", "b", "c", "d"),
        channels=3,
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train=examples,
        validation=examples,
        test=examples,
    )
    here, there = (
        make_pipeline(dataset, batch_size=16, device=torch.device(device), seed=0, augment="crop-flip")
        for device in ("cpu", "cuda")
    )
    for (images, labels), (others, theirs) in zip(here.batches(1), there.batches(1), strict=True):
        assert others.is_cuda
        assert torch.allclose(images, others.cpu(), atol=1e-5)
        assert torch.equal(labels, theirs.cpu())


def test_cuda_states_survive_a_file(tmp_path: Path) -> None:
    for module in ("pydantic", "safetensors", "tomli_w"):
        pytest.importorskip(module)
    from granet_cli.app import run

    arguments = ["train", "--recipe", "quickstart", "--epochs", "1", "--device", "cuda", "--out", str(tmp_path / "run")]
    assert run(arguments) == 0
    checkpoint = granet.load_checkpoint(tmp_path / "run" / "last.safetensors")
    active = sum(int(mask.sum()) for mask in checkpoint.masks.values())
    assert active == round(0.1 * sum(mask.numel() for mask in checkpoint.masks.values()))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_cuda_runs_every_node_of_a_measurement(provider: str, tmp_path: Path) -> None:
    for module in ("pydantic", "onnx", "onnxruntime"):
        pytest.importorskip(module)
    from exporters.bench import libraries
    from exporters.bench.runner import measure
    from exporters.bench.settings import BenchSettings
    from tests.bench_networks import write_network

    if lacking := libraries.missing(provider):
        pytest.skip(f"ONNX Runtime lacks {lacking[0]}")
    sparse = write_network(tmp_path / "sparse.onnx", density=0.1, layers=3)
    dense = write_network(tmp_path / "sparse.dense.onnx", layers=3)
    settings = BenchSettings(provider=provider, batches=(1, 8), time_limit=5.0, processes=3, cache=tmp_path / "cache")
    report = measure([sparse], settings)
    expected = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[provider]
    assert all(model.nodes.keys() == {expected} for model in report.models)
    assert {result.batch for result in report.results} == {1, 8}
    assert not report.failures
    assert report.models[-1].path == str(dense)
