"""A checkpoint measured in torch beside its files, and a sweep over the runs of a folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exporters import onnx_export
from exporters.bench import torch_engine
from exporters.bench.protocol import Spec
from exporters.bench.suite import export_suite
from exporters.bench.torch_engine import TorchCheckpoint
from granet import checkpoint
from granet.errors import ModelError, UnknownNameError, UsageError
from granet.layers.maskable import maskable
from granet.models import build
from tests.bench_networks import write_network
from tests.checkpoints import NETWORK
from tests.checkpoints import checkpoint as made


def save(path: Path, density: float, *, network: str = "resnet8") -> Path:
    """A whole small network at about that density."""
    model = build("resnet8", in_channels=1, classes=2, image_size=28)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weights[name].shape, generator=generator) < density for name in maskable(model, ())}
    value = made(
        weights={name: weight.where(masks[name], 0.0) if name in masks else weight for name, weight in weights.items()},
        masks=masks,
        explored=masks,
        buffers=dict(model.named_buffers()),
        optimizer={},
        accumulators={},
        network=NETWORK if network == "resnet8" else NETWORK.__class__(**{**vars(NETWORK), "name": network}),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, value)
    return path


def test_impossible_variants_come_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine.shutil, "which", lambda _: None)
    side = TorchCheckpoint.read(save(tmp_path / "a.safetensors", 0.1), "cpu")
    assert side.variants == ("eager", "channels_last")
    assert "C++ compiler" in side.impossible["compiled"]
    assert "CUDA only" in side.impossible["2:4"]
    assert side.image == (1, 28, 28)
    assert 0.05 < side.active_flops / side.flops < 0.15


def test_a_network_of_the_users_has_to_be_confirmed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", 0.1, network="nets:mine")
    with pytest.raises(ModelError, match="--model nets:mine"):
        TorchCheckpoint.read(path, "cpu")


@pytest.mark.parametrize("variant", ["eager", "channels_last"])
@pytest.mark.parametrize("with_copies", [False, True])
def test_the_network_runs_in_torch(variant: str, with_copies: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", 0.1)
    before = torch.backends.cudnn.benchmark, torch.get_num_threads()
    spec = Spec(engine="torch", path=str(path), provider="cpu", batch=3, variant=variant, with_copies=with_copies)
    try:
        opened, run = torch_engine.open_engine(spec)
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.set_num_threads(before[1])
    output: Any = run()
    assert tuple(output.shape) == (3, 2)
    assert opened.provider == "torch cpu"
    assert opened.options["variant"] == variant


def test_linear_weights_with_the_two_of_four_pattern_are_recognised() -> None:
    weight = torch.zeros(32, 64)
    weight.view(-1, 4)[:, :2] = 1.0
    assert torch_engine.takes_two_of_four(weight)
    assert not torch_engine.takes_two_of_four(torch.ones(32, 64))
    assert not torch_engine.takes_two_of_four(weight[:16])


def test_a_suite_exports_each_density_in_each_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, density in (("best", 0.1), ("step-00000020", 0.5), ("step-00000040", 0.1)):
        save(tmp_path / f"run/{name}.safetensors", density)
    (tmp_path / "run/recipe.toml").write_text(made().recipe.to_toml())
    exported: list[tuple[str, str, bool]] = []

    def export(value: Any, output: Path, settings: Any, **_: object) -> Any:
        exported.append((output.name, settings.encoding, settings.compact))
        write_network(output)
        return SimpleNamespace(compaction=SimpleNamespace(removed=0) if settings.compact else None)

    monkeypatch.setattr(onnx_export, "export", export)
    suite = export_suite(tmp_path / "run", ("gaps8", "compact"))
    densities = [float(name.split("-")[1][:6]) for name, *_ in exported[1:]]
    assert densities == pytest.approx([0.5, 0.5, 0.1, 0.1], abs=0.02)
    assert exported[0] == ("control.onnx", "dense", False)
    assert [encoding for _, encoding, _ in exported[1:]] == ["gaps8", "dense", "gaps8", "dense"]
    assert len(suite.models) == len(suite.skipped) == 2
    assert all(path.exists() for path in (suite.control, *suite.models))
    assert len(list((tmp_path / "run/bench").iterdir())) == 3  # what nothing was removed from is gone


def test_a_suite_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        export_suite(tmp_path, ("gaps8",))
    with pytest.raises(UnknownNameError, match="gaps8"):
        export_suite(tmp_path, ("gaps9",))
