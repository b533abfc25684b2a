"""What is not active becomes zero, bit for bit, and everything else stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from granet import Sparsifier
from granet.masks import kernels
from granet.masks.layout import Layout
from granet.masks.packed import PackedMasks
from granet.methods import Static
from granet.sparsifier.gradient_masking import GradientMasks, zero_outside

INF, NAN = math.inf, math.nan
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test twice: with what a CPU is given, and with what any other device is."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    return


def weird(shape: tuple[int, ...], kind: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Random values among which all kinds of special ones are."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, kind)
    for place, special in enumerate([INF, -INF, NAN, -0.0, 1e-45, 65504.0]):
        values.view(-1)[place::13] = special
    return values


def bits(tensor: Tensor) -> Tensor:
    """A copy that can be compared whatever is in it."""
    return tensor.detach().clone().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", TYPES)
def test_only_what_is_active_is_left_and_it_to_the_bit(kind: torch.dtype, device: str) -> None:
    shapes = {"x": (7, 5, 3, 3), "y": (11,), "z": (4, 2)}
    tensors = {name: weird(shape, kind, device) for name, shape in shapes.items()}
    tensors["x"] = tensors["x"].to(memory_format=torch.channels_last)
    masks = {name: torch.rand(tensor.shape, device=device) < 0.5 for name, tensor in tensors.items()}
    masks["z"][:] = True
    before = {name: bits(tensor) for name, tensor in tensors.items()}
    zero_outside({name: [tensor] for name, tensor in tensors.items()}, PackedMasks.of(masks, Layout.of(tensors)))
    for name, tensor in tensors.items():
        assert torch.equal(bits(tensor), before[name] * masks[name])


def test_tensors_laid_out_unlike_their_weight_are_masked_too() -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    mask = torch.rand(4, 3, 2, 2) < 0.5
    others = [torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 4)[..., :2], torch.randn(4, 3, 2, 2).double()]
    expected = [torch.where(mask, other, 0) for other in [weight, *others]]
    zero_outside({"w": [weight, *others]}, PackedMasks.of({"w": mask}, Layout.of({"w": weight})))
    assert all(torch.equal(a, b) for a, b in zip([weight, *others], expected, strict=True))


def test_large_layers_are_masked_piece_by_piece() -> None:
    tensors = {"large": torch.randn(700, 1001), "small": torch.randn(13), "other": torch.randn(300_000)}
    masks = {name: torch.rand(tensor.shape) < 0.5 for name, tensor in tensors.items()}
    expected = {name: torch.where(masks[name], tensor, 0) for name, tensor in tensors.items()}
    zero_outside({name: [tensor, tensor.clone()] for name, tensor in tensors.items()}, PackedMasks.of(masks))
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)


def parameters() -> dict[str, nn.Parameter]:
    return {
        "conv": nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)),
        "half": nn.Parameter(torch.randn(9, 3).bfloat16()),
        "full": nn.Parameter(torch.randn(5)),
        "idle": nn.Parameter(torch.randn(6)),
    }


def test_gradients_follow_the_masks() -> None:
    model = parameters()
    masks = GradientMasks(model)
    for seed in range(3):
        torch.manual_seed(seed)
        present = {name: torch.rand(parameter.shape) < 0.5 for name, parameter in model.items()}
        present["full"][:] = seed != 1  # everything, nothing, everything again
        masks.set_masks(PackedMasks.of(present, Layout.of(model)))
        expected = {}
        for name in ("conv", "half", "full"):
            gradient = weird(tuple(model[name].shape), model[name].dtype)
            model[name].grad = gradient.to(memory_format=torch.preserve_format)
            expected[name] = bits(gradient) * present[name]
        masks.apply()
        for name, found in expected.items():
            assert torch.equal(bits(model[name].grad), found)  # type: ignore[arg-type]
    assert model["idle"].grad is None


def test_where_all_is_active_nothing_is_masked() -> None:
    model = parameters()
    masks = GradientMasks(model)
    masks.set_masks(PackedMasks.all(Layout.of(model), torch.device("cpu")))
    for parameter in model.values():
        parameter.grad = torch.ones_like(parameter)
    masks.apply()
    assert all(parameter.grad.all() for parameter in model.values() if parameter.grad is not None)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_parameter_that_does_not_fill_its_memory_is_masked_as_any_other(compiled: bool) -> None:
    model = nn.Linear(8, 20, bias=False)
    model.weight = nn.Parameter(torch.randn(16, 20)[::2].t())  # every second column of what it lies in
    assert not model.weight.is_contiguous()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = Sparsifier(model, optimizer, Static(density=0.3), total_steps=5, compiled=compiled)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    (mask,) = sparsifier.masks.values()
    (state,) = optimizer.state.values()
    assert torch.equal(model.weight != 0, mask)
    assert torch.equal(state["momentum_buffer"] != 0, mask)
