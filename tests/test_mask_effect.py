"""Layers that do not multiply by their weights are refused before training; no other layer is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granet import Sparsifier
from granet.errors import UsageError
from granet.layers.mask_effect import check_network
from granet.layers.maskable import maskable
from granet.methods import Dense, Static
from granet.models import build
from granet_cli.app import run
from tests.running import OPTIMIZERS
from tests.synthetic import write_image_folder


def standardised(weight: Tensor) -> Tensor:
    return (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-5)


class Own(nn.Linear):
    """A layer that multiplies by whatever ``used`` makes of it and its input."""

    direction: Tensor

    def __init__(self, used: Use) -> None:
        super().__init__(8, 8)
        self.used = used
        self.left, self.right = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(2, 8))
        self.register_buffer("direction", torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self, x)


class Binary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def binary(weight: Tensor) -> Tensor:
    result: Tensor = Binary.apply(weight)  # type: ignore[no-untyped-call]  # missing in torch's stubs
    return result


def spectral(layer: Own, x: Tensor) -> Tensor:
    right = F.normalize(layer.weight.t() @ layer.direction, dim=0)
    return F.linear(x, layer.weight / (layer.weight @ right).norm())


def demodulated(layer: Own, x: Tensor) -> Tensor:
    weight = layer.weight[None] * (1 + x[:, None])
    weight = weight * torch.rsqrt(weight.square().sum(2, keepdim=True) + 1e-8)
    return torch.bmm(weight, x[:, :, None])[:, :, 0]


def dorefa(layer: Own, x: Tensor) -> Tensor:
    bounded = torch.tanh(layer.weight)
    share = bounded / (2 * bounded.abs().max()) + 0.5
    return F.linear(x, 2 * torch.round(share * 3) / 3 - 1)


Use = Callable[[Own, Tensor], Tensor]

NOT_ZERO: dict[str, Use] = {
    "standardised": lambda layer, x: F.linear(x, standardised(layer.weight)),
    "centred in place": lambda layer, x: F.linear(x, layer.weight.clone().sub_(layer.weight.mean())),
    "normalised by a layer norm": lambda layer, x: F.linear(x, F.layer_norm(layer.weight, (8,))),
    "softmax": lambda layer, x: F.linear(x, layer.weight.softmax(1)),
    "positive": lambda layer, x: F.linear(x, F.softplus(layer.weight)),
    "binary without a zero": lambda layer, x: F.linear(x, torch.where(layer.weight >= 0, 1.0, -1.0)),
    "two bits without a zero": dorefa,
    "with noise": lambda layer, x: F.linear(x, layer.weight + 0.1 * torch.randn_like(layer.weight)),
    "with a merged adapter, zero at first": lambda layer, x: F.linear(x, layer.weight + layer.left @ layer.right),
    "conditioned on the input": lambda layer, x: F.linear(x, layer.weight + x.mean()),
    "orthogonalised": lambda layer, x: F.linear(x, torch.linalg.qr(layer.weight)[0]),
    "in the frequency domain": lambda layer, x: torch.fft.irfft(torch.fft.rfft(layer.weight[0]) * torch.fft.rfft(x)),
    "once as it is, once standardised": lambda layer, x: F.linear(
        F.linear(x, layer.weight), standardised(layer.weight)
    ),
}
ZERO: dict[str, Use] = {
    "as it is": lambda layer, x: F.linear(x, layer.weight, layer.bias),
    "transposed": lambda layer, x: x @ layer.weight,
    "absolute": lambda layer, x: F.linear(x, layer.weight.abs()),
    "scaled": lambda layer, x: F.linear(x, 0.3 * layer.weight),
    "norms of rows": lambda layer, x: F.linear(F.normalize(x), F.normalize(layer.weight)),
    "spectral norm": spectral,
    "demodulated": demodulated,
    "binary": lambda layer, x: F.linear(x, binary(layer.weight) * layer.weight.abs().mean()),
    "straight-through": lambda layer, x: F.linear(x, (layer.weight.sign() - layer.weight).detach() + layer.weight),
    "quantised": lambda layer, x: F.linear(x, torch.fake_quantize_per_tensor_affine(layer.weight, 0.01, 3, -128, 127)),
    "in half precision": lambda layer, x: F.linear(x.bfloat16(), layer.weight.bfloat16()).float(),
    "with dropped connections": lambda layer, x: F.linear(x, F.dropout(layer.weight, 0.5, layer.training)),
    "an adapter beside it": lambda layer, x: F.linear(x, layer.weight) + x @ layer.right.t() @ layer.left.t(),
    "one of several": lambda layer, x: F.linear(x, torch.cat([layer.weight[4:], layer.left.t().repeat(1, 1)])),
    "on constants": lambda layer, x: x + F.linear(layer.direction, layer.weight),
    "element by element": lambda layer, x: F.relu(x * layer.weight[0] + layer.bias) @ layer.left @ layer.right,
    "not at all": lambda layer, x: x,
}


def with_layer(used: Use) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), Own(used), nn.Linear(8, 3))


def sparsifier(model: nn.Module, dense: Sequence[str] = ()) -> Sparsifier:
    return Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.5), total_steps=1, dense=dense)


@pytest.mark.parametrize("used", NOT_ZERO.values(), ids=NOT_ZERO)
def test_a_layer_that_multiplies_by_other_numbers_is_refused_unless_kept_dense(
    used: Use,
) -> None:
    with pytest.raises(UsageError, match=r'have no effect.*got 1 of 3 layers, 2 \(Own\)\. Keep.*dense=\["2"\]'):
        sparsifier(with_layer(used))
    assert list(sparsifier(with_layer(used), dense=["2"]).masks) == ["0.weight", "3.weight"]


@pytest.mark.parametrize("used", ZERO.values(), ids=ZERO)
def test_a_layer_whose_zeros_arrive_at_the_product_is_masked(used: Use) -> None:
    model = with_layer(used)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    assert list(sparsifier(model).masks) == ["0.weight", "2.weight", "3.weight"]
    model = with_layer(used)
    check_network(model, maskable(model), lambda network: network(torch.ones(4, 8)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_trying_a_network_draws_no_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 3))
    state = torch.get_rng_state()
    check_network(model, maskable(model), lambda network: network(torch.ones(4, 8)))
    assert torch.equal(torch.get_rng_state(), state)


class Outside(nn.Module):
    """Ordinary layers, of which the network itself standardises a weight."""

    def __init__(self, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, 8, 3, stride=4), nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.conv2d(images, standardised(self.conv.weight), stride=4)
        logits: Tensor = self.head(F.relu(features).mean((2, 3)))
        return logits


def test_a_network_that_standardises_the_weight_of_an_ordinary_layer_is_found_by_an_example() -> None:
    model = Outside()
    with pytest.raises(UsageError, match=r'1 of 2 layers, conv \(Conv2d\).*dense=\["conv"\]'):
        check_network(model, maskable(model), lambda network: network(torch.ones(2, 3, 16, 16)))
    check_network(model, maskable(model, ["conv"]), lambda network: network(torch.ones(2, 3, 16, 16)))


def test_a_dense_network_may_have_any_layers() -> None:
    model = with_layer(NOT_ZERO["standardised"])
    Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Dense(), total_steps=1)


@pytest.mark.parametrize("command", ["train", "plan"])
def test_train_and_plan_refuse_it_before_anything_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images", size=16)
    name = f"{__name__}:{Outside.__name__}"
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    out = ["--out", "run"] if command == "train" else []
    settings = [
        "--data",
        "images",
        "--model",
        name,
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--set",
        "method.interval=1it",
    ]
    assert run([command, *settings, *out]) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert "Outside: masks would have no effect" in error
    assert 'dense=["conv"] (method.dense in a recipe)' in error
    assert not Path("run").exists()
    assert run([command, *settings, *out, "--set", 'method.dense=["conv"]']) == 0
    assert run([command, *settings[:-2], *out, "--method", "dense", *(["--overwrite"] if out else [])]) == 0


def test_a_network_with_standardised_weights_gets_short_patterns_of_what_to_keep_dense() -> None:
    with pytest.raises(UsageError, match=r"got 29 of 30 layers.*\(ScaledStdConv2d\)") as raised:
        sparsifier(build("timm:nf_resnet26", in_channels=3, classes=2, image_size=32))
    assert 'dense=["stem.conv", "stages.*.downsample.conv", "stages.*.conv1", "stages.*.conv2"' in str(raised.value)


@pytest.mark.parametrize("name", ["resnet18", "swin_v2_t", "mobilenet_v3_small"])
def test_networks_without_them_are_masked(name: str) -> None:
    model = build(f"torchvision:{name}", in_channels=3, classes=2, image_size=64)
    check_network(model, maskable(model), lambda network: network(torch.zeros(2, 3, 64, 64)))


class Standardised(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, standardised(self.weight.flatten(1)).view_as(self.weight), self.bias, stride=4)


class Inside(nn.Module):
    """A network with a layer that standardises its weight."""

    def __init__(self, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv, self.head = Standardised(in_channels, 8, 3), nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.conv(images)).mean((2, 3)))
        return logits


def test_import_and_inspect_remark_on_masks_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"{__name__}:{Inside.__name__}"
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    model = Inside()
    with torch.no_grad():
        model.conv.weight[:, 0] = 0
    torch.save(model.state_dict(), "own.pt")
    imported = ["import", "own.pt", "--model", name, "--image-size", "16", "-o", "own.safetensors"]
    assert run([*imported, "--infer-masks"]) == 0
    remark = "no effect on conv: such a layer multiplies by numbers"
    assert remark in " ".join("".join(capfd.readouterr()).split())
    assert run(["inspect", "own.safetensors", "--model", name]) == 0
    assert f"Masks have {remark}" in " ".join(capfd.readouterr().out.split())
    assert run([*imported, "--overwrite"]) == 0  # nothing is masked
    assert "no effect" not in "".join(capfd.readouterr())
