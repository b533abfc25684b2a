"""Groups of channels that can only be removed together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from exporters.compaction import compact
from granet.coupling import coupled_channels
from granet.errors import ModelError
from granet.models import build

IMAGES = torch.zeros(2, 3, 8, 8)


class Residual(nn.Module):
    """A stem whose channels a sum couples to those of a branch, and a head that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.inner, self.outer = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1, bias=False)
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = hidden + self.outer(torch.relu(self.inner(hidden)))
        return self.head(hidden.mean((2, 3)))


def groups(model: nn.Module, example: Tensor = IMAGES) -> list[set[tuple[str, int, tuple[int, ...]]]]:
    """Each group as a set of tensor, axis and indices."""
    return [set(group) for group in coupled_channels(model, (example,))]


def test_groups_of_a_residual_block_as_found_by_hand() -> None:
    found = groups(Residual())
    stem = {(f"norm.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")}
    stem |= {("stem.weight", 0), ("inner.weight", 1), ("outer.weight", 0), ("head.weight", 1)}
    inner = {("inner.weight", 0), ("inner.bias", 0), ("outer.weight", 1)}
    expected = [{(name, axis, (index,)) for name, axis in stem} for index in range(4)]
    expected += [{(name, axis, (index,)) for name, axis in inner} for index in range(2)]
    assert sorted(found, key=sorted) == sorted(expected, key=sorted)


def test_a_depthwise_convolution_couples_inputs_to_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 4, 1, groups=2, bias=False), nn.Conv2d(4, 1, 1))
    assert groups(model) == [
        {("0.weight", 0, (0,)), ("1.weight", 0, (0, 1)), ("2.weight", 1, (0, 1))},
        {("0.weight", 0, (1,)), ("1.weight", 0, (2, 3)), ("2.weight", 1, (2, 3))},
    ]


def test_inputs_outputs_and_channels_of_unknown_operators_are_in_no_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    assert groups(model) == []


def test_groups_do_not_depend_on_values_or_mode_and_the_model_is_left_as_it_is() -> None:
    model = Residual().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = groups(model)
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for parameter in model.parameters():
        parameter.data.zero_()
    assert groups(model) == found


@pytest.mark.parametrize("name", ["resnet20", "lenet-300-100", "torchvision:mobilenet_v2"])
def test_zeroing_a_group_makes_it_removable(name: str) -> None:
    """What the groups say is what compaction does: it removes the zeroed ones, and nothing else."""
    model = build(name, in_channels=3, classes=5, image_size=32)
    example = (torch.zeros(2, 3, 32, 32),)
    found = coupled_channels(model, example)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for group in found[::7]:
        for tensor, axis, indices in group:
            tensors[tensor].data.index_fill_(axis, torch.tensor(indices), 0)
    compacted = compact(model, example)
    kept = {**dict(compacted.model.named_parameters()), **dict(compacted.model.named_buffers())}
    lost = {(tensor, axis): 0 for group in found for tensor, axis, _ in group}
    for group in found[::7]:
        for tensor, axis, indices in group:
            lost[tensor, axis] += len(indices)
    for (tensor, axis), count in lost.items():
        assert tensors[tensor].shape[axis] - kept[tensor].shape[axis] == count, tensor


def test_a_network_that_cannot_be_traced_is_an_error_and_keeps_its_mode() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    model = Branching().train()
    with pytest.raises(ModelError, match="cannot be traced"):
        coupled_channels(model, (IMAGES,))
    assert model.training
