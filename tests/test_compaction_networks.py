"""Compaction of whole networks: the catalog, some of torchvision's, and whatever hypothesis puts together."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exporters.compaction import Compacted, compact
from granet import flops
from granet.models import CATALOG, build


@torch.no_grad()
def damage(model: nn.Module, share: float, seed: int) -> None:
    """Lively batch norms; of all filters and inputs that share is zero, and half that many scales and shifts."""
    source = torch.Generator().manual_seed(seed)

    def some(size: int, share: float) -> Tensor:
        return torch.rand(size, generator=source) < share

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5, generator=source)
            module.running_var.uniform_(0.5, 2, generator=source)
            for tensor, mean in ((module.weight, 1.0), (module.bias, 0.0)):
                tensor.normal_(mean, 0.5, generator=source)
                tensor[some(tensor.numel(), share / 2)] = 0.0
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight[some(module.weight.shape[0], share)] = 0.0
            if module.weight.shape[1] > 1:
                module.weight[:, some(module.weight.shape[1], share)] = 0.0
            if module.bias is not None:
                module.bias.normal_(0, 0.5, generator=source)
                module.bias[some(module.bias.numel(), share)] = 0.0


def check(model: nn.Module, shape: tuple[int, ...]) -> Compacted:
    """Same outputs, in double precision besides ``compact``'s own check; counts are those of the smaller network."""
    compacted = compact(model, (torch.zeros(2, *shape),))
    assert compacted.difference <= 1e-5
    images = torch.randn(2, *shape).double()
    with torch.no_grad():
        original, smaller = (copy.deepcopy(network).eval().double() for network in (model, compacted.model))
        expected = original(images)
        assert (smaller(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert compacted.flops_before == flops.inference(model, shape)
    assert compacted.flops_after == flops.inference(compacted.model, shape) <= compacted.flops_before
    assert compacted.parameters_after == sum(p.numel() for p in compacted.model.parameters())
    assert compacted.model.state_dict().keys() == model.state_dict().keys()
    return compacted


DEEPER = ("resnet32", "resnet56", "resnet34")  # like others of the catalog, with more of the same blocks


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in DEEPER])
def test_networks_of_every_family_of_the_catalog_become_smaller_and_stay_the_same(name: str) -> None:
    model = build(name, in_channels=3, classes=10, image_size=16)
    damage(model, 0.2, seed=1)
    found = check(model, (3, 16, 16))
    assert found.removed > 0.05 * sum(layer.outputs for layer in found.layers)
    assert found.flops_after is not None
    assert found.flops_before is not None
    assert found.flops_after < 0.9 * found.flops_before


@pytest.mark.parametrize(
    ("name", "size", "share"),
    [
        ("resnet18", 32, 0.05),
        ("resnet50", 32, 0.05),
        ("mobilenet_v2", 32, 0.05),
        ("mobilenet_v3_small", 32, 0.02),
        ("shufflenet_v2_x0_5", 32, 0.05),
        ("densenet121", 32, 0.05),
    ],
)
def test_networks_of_torchvision_become_smaller_and_stay_the_same(name: str, size: int, share: float) -> None:
    model = build(f"torchvision:{name}", in_channels=3, classes=10, image_size=size)
    damage(model, 0.2, seed=2)
    found = check(model, (3, size, size))
    assert found.removed > share * sum(layer.outputs for layer in found.layers)


@dataclass(frozen=True)
class Step:
    """An operator on earlier values: its kind, which values (counted from the last), and two small choices."""

    kind: str
    of: int
    also: int
    width: int
    variant: int


KINDS = ("conv", "conv", "conv", "norm", "norm", "act", "act", "pool", "add", "block", "cat", "depthwise", "mul")
ACTIVATIONS = (nn.ReLU, lambda: nn.ReLU(inplace=True), lambda: nn.LeakyReLU(0.1), nn.ReLU6, nn.SiLU)
steps = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    of=st.integers(0, 2),
    also=st.integers(0, 5),
    width=st.integers(1, 6),
    variant=st.integers(0, 7),
)


class Random(nn.Module):
    """A network that is put together from steps; the values of all steps that nothing read are averaged and mixed."""

    def __init__(self, plan: list[Step]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.program: list[tuple[str, int, int]] = []
        shapes = [(3, 8)]
        unread = {0}
        for step in plan:
            index = max(0, len(shapes) - 1 - step.of)
            channels, size = shapes[index]
            kind, other, layer, shape = step.kind, index, None, (channels, size)
            if kind in ("add", "mul"):
                alike = [i for i, s in enumerate(shapes) if s == shape and i != index]
                if not alike:
                    kind = "act"
                else:
                    other = alike[step.also % len(alike)]
            if kind == "cat":
                alike = [i for i, s in enumerate(shapes) if s[1] == size]
                other = alike[step.also % len(alike)]
                shape = (channels + shapes[other][0], size)
            elif kind in ("conv", "depthwise"):
                kernel, stride = (
                    (3 if step.variant & 1 and size >= 3 else 1),
                    (2 if step.variant & 2 and size >= 4 else 1),
                )
                padding = kernel // 2 if step.variant & 4 else 0
                groups = channels if kind == "depthwise" else 1
                width = channels if kind == "depthwise" else step.width
                layer = nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=step.also % 2 == 0)
                shape = (width, (size + 2 * padding - kernel) // stride + 1)
            elif kind == "norm":
                layer = nn.BatchNorm2d(channels)
            elif kind == "block":
                layer = nn.Sequential(
                    nn.Conv2d(channels, step.width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(step.width),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(step.width, channels, 1, bias=bool(step.variant & 1)),
                )
            elif kind == "pool":
                pools = (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1))
                layer = pools[step.variant % 4]
                if size >= 4:
                    shape = (channels, size // 2 if step.variant % 4 < 2 else (size - 1) // 2 + 1)
                else:
                    layer = nn.Identity()
            elif kind == "act":
                layer = ACTIVATIONS[step.variant % len(ACTIVATIONS)]()
            self.layers.append(layer if layer is not None else nn.Identity())
            self.program.append((kind, index, other))
            inplace = isinstance(layer, nn.ReLU) and layer.inplace
            unread = (unread - {index, other}) | {len(shapes)}
            shapes.append(shape)
            if inplace:  # the value before is that after, for whoever reads it later
                shapes[index] = shapes[-1]
        self.unread = sorted(unread)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(4 * sum(shapes[i][0] for i in self.unread), 5)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        values = [images.clone()]
        for (kind, index, other), layer in zip(self.program, self.layers, strict=True):
            value = values[index]
            if kind == "add":
                values.append(value + values[other])
            elif kind == "mul":
                values.append(value * values[other])
            elif kind == "cat":
                values.append(torch.cat([value, values[other]], 1))
            elif kind == "block":
                values.append(value + layer(value))
            else:
                values.append(layer(value))
        flat = [self.pool(values[index]).flatten(1) for index in self.unread]
        return self.head(torch.relu(self.hidden(torch.cat(flat, 1))))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(steps, min_size=2, max_size=9), share=st.sampled_from([0.1, 0.3, 0.6]), seed=st.integers(0, 99))
def test_random_networks_stay_the_same_and_have_nothing_left_to_remove(
    plan: list[Step], share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Random(plan)
    damage(model, share, seed)
    first = check(model, (3, 8, 8))
    again = compact(first.model, (torch.zeros(2, 3, 8, 8),))
    assert again.removed == 0
    assert again.parameters_after == first.parameters_after
