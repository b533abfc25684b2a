"""What goes from a network, what stays, and that the outputs are the same either way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.compaction import Compacted, LayerChange, compact
from exporters.compaction.proof import difference
from granet import flops
from granet.errors import GranetError, ModelError, UsageError

IMAGES = (torch.zeros(2, 3, 8, 8),)


def lively(model: nn.Module) -> nn.Module:
    """Statistics, scales and shifts that are not those of a fresh batch norm."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor, draw in (
                (module.running_mean, torch.randn),
                (module.running_var, lambda *size: torch.rand(*size) + 0.5),
                (module.weight, torch.randn),
                (module.bias, torch.randn),
            ):
                if tensor is not None:
                    tensor.data = draw(*tensor.shape)
    return model.eval()


def sequence(*layers: nn.Module) -> nn.Sequential:
    model = lively(nn.Sequential(*layers))
    assert isinstance(model, nn.Sequential)
    return model


def kill(layer: nn.Module, *, rows: Sequence[int] = (), columns: Sequence[int] = ()) -> None:
    """Filters that are all zero, and inputs that nothing looks at."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    weight.data[list(rows)] = 0.0
    weight.data[:, list(columns)] = 0.0


def same(compacted: Compacted, model: nn.Module, example: tuple[Tensor, ...] = IMAGES) -> None:
    """In double precision on noise of two kinds, within 1e-5 of the largest output (weights are rounded once)."""
    model, smaller = copy.deepcopy(model).eval().double(), copy.deepcopy(compacted.model).double()
    for scale in (1.0, 30.0):
        noise = tuple(scale * torch.randn(value.shape).double() for value in example)
        expected = model(*noise)
        torch.testing.assert_close(smaller(*noise), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def shrunk(model: nn.Module, example: tuple[Tensor, ...] = IMAGES) -> dict[str, tuple[int, int]]:
    """Inputs and outputs that each layer has left, once the outputs are known to be the same."""
    compacted = compact(model, example)
    same(compacted, model, example)
    assert compacted.difference < 1e-5
    return widths(compacted.layers)


def widths(layers: Sequence[LayerChange]) -> dict[str, tuple[int, int]]:
    return {layer.name.removesuffix(".weight"): (layer.inputs_kept, layer.outputs_kept) for layer in layers}


# Where nothing looks


def test_an_output_that_no_weight_reads_is_removed_with_its_bias_and_norm() -> None:
    model = sequence(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, padding=1))
    kill(model[3], columns=[1, 4])
    compacted = compact(model, IMAGES)
    same(compacted, model)
    conv, norm, _, last = compacted.model.children()
    assert torch.equal(conv.weight, model[0].weight[[0, 2, 3, 5]])
    assert torch.equal(conv.bias, model[0].bias[[0, 2, 3, 5]])
    assert torch.equal(norm.running_mean, model[1].running_mean[[0, 2, 3, 5]])
    assert (conv.out_channels, norm.num_features, last.in_channels, last.out_channels) == (4, 4, 4, 4)
    assert torch.equal(last.weight, model[3].weight[:, [0, 2, 3, 5]])


def test_flops_and_parameters_fall_as_computed_by_hand() -> None:
    model = sequence(
        nn.Conv2d(3, 6, 3),  # 6 x 6
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),  # 3 x 3
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 5),
    )
    kill(model[2], columns=[0, 5])
    model[5].weight.data[:, 9:18] = 0.0  # all places of channel 1
    found = compact(model, IMAGES)
    assert widths(found.layers) == {"0": (3, 4), "2": (4, 3), "5": (27, 5)}
    before = [2 * 6 * 27 * 36, 2 * 4 * 54 * 9, 2 * 36 * 5]
    after = [2 * 4 * 27 * 36, 2 * 3 * 36 * 9, 2 * 27 * 5]
    assert [layer.flops for layer in found.layers] == before
    assert [layer.flops_kept for layer in found.layers] == after
    assert (found.flops_before, found.flops_after) == (sum(before), sum(after))
    assert found.flops_after == flops.inference(found.model, (3, 8, 8))
    assert found.parameters_before == 6 * 28 + 4 * 55 + 37 * 5
    assert found.parameters_after == 4 * 28 + 3 * 37 + 28 * 5
    assert [layer.parameters_kept for layer in found.layers] == [4 * 27, 3 * 36, 27 * 5]
    assert found.removed == 3


def test_a_removal_makes_channels_removable_through_any_depth() -> None:
    model = sequence(*(nn.Linear(4, 4, bias=False) for _ in range(4)))
    for layer in model:
        layer.weight.data = torch.eye(4)
    kill(model[3], columns=[2])
    assert shrunk(model, (torch.zeros(2, 4),)) == {"0": (4, 3), "1": (3, 3), "2": (3, 3), "3": (3, 4)}


def test_an_output_of_which_only_some_positions_are_read_stays() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    model[2].weight.data[:, 36:71] = 0.0  # of channel 1 all places but one
    assert shrunk(model) == {"0": (3, 4), "2": (144, 5)}


# Constants


@pytest.mark.parametrize("bias", [True, False], ids=["into the bias", "into the running mean"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_constant_folds_into_a_layer_that_does_not_pad(bias: bool, stride: int) -> None:
    model = sequence(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3, stride=stride, bias=bias),
        nn.BatchNorm2d(5),
    )
    kill(model[0], rows=[0, 3])
    model[1].bias.data[[0, 3]] = torch.tensor([5.0, 9.0])  # above what comes in, so that ReLU lets it through
    assert shrunk(model) == {"0": (3, 4), "3": (4, 5)}


def test_a_constant_that_meets_padding_stays_unless_it_is_zero() -> None:
    model = sequence(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1))
    kill(model[0], rows=[0, 3])
    model[0].bias.data[[0, 3]] = torch.tensor([-1.0, 2.0])
    assert shrunk(model) == {"0": (3, 5), "2": (5, 5)}
    assert any("1 constant input stays: a layer that pads" in note for note in compact(model, IMAGES).notes)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name_is_padding(padding: str) -> None:
    model = sequence(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3, padding=padding))
    kill(model[0], rows=[2])
    assert shrunk(model)["0"] == (3, 6 if padding == "same" else 5)
    assert shrunk(sequence(model[0], nn.Conv2d(6, 5, 1, padding=padding)))["0"] == (3, 5)


def test_a_constant_without_a_bias_to_fold_into_stays() -> None:
    model = sequence(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1, bias=False), nn.ReLU())
    kill(model[0], rows=[2, 3])
    model[0].bias.data[3] = 0.0
    assert shrunk(model) == {"0": (3, 5), "1": (5, 5)}
    assert any("without a bias or batch norm" in note for note in compact(model, IMAGES).notes)


def test_a_constant_folds_into_a_running_mean_only_if_that_norm_alone_reads_the_layer() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1, bias=False)
            self.norm = nn.BatchNorm2d(5)

        def forward(self, images: Tensor) -> Tensor:
            read = self.second(self.first(images))
            return self.norm(read) * read

    model = lively(Read())
    kill(model.first, rows=[1])
    assert shrunk(model) == {"first": (3, 4), "second": (4, 5)}


def test_a_norm_scale_of_zero_makes_a_channel_constant() -> None:
    model = sequence(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 5, 1))
    model[1].weight.data[[1, 2]] = 0.0
    assert shrunk(model) == {"0": (3, 4), "3": (4, 5)}


def test_the_input_of_a_norm_scale_of_zero_is_dead_even_where_the_constant_stays() -> None:
    model = sequence(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1))
    model[1].weight.data[[0, 1, 3, 4, 5], 4] = 0.0  # the last channel is read for output 2 alone
    model[2].weight.data[2] = 0.0
    assert shrunk(model) == {"0": (3, 4), "1": (4, 6), "3": (6, 4)}


def test_constants_pass_through_layers_that_read_only_constants() -> None:
    model = sequence(nn.Conv2d(3, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 6, 3), nn.Tanh(), nn.Conv2d(6, 2, 3))
    kill(model[0], rows=[0, 1])
    model[2].weight.data[4, 2:] = 0.0  # reads the two constants only
    compacted = compact(model, IMAGES)
    same(compacted, model)
    assert widths(compacted.layers) == {"0": (3, 4), "2": (4, 5), "4": (5, 2)}


ACTIVATIONS = [
    nn.ReLU6(),
    nn.LeakyReLU(0.2, inplace=True),
    nn.ELU(inplace=True),
    nn.SiLU(inplace=True),
    nn.Hardswish(inplace=True),
    nn.Hardsigmoid(),
    nn.Mish(),
    nn.Softplus(),
    nn.GELU(approximate="tanh"),
    nn.PReLU(6),
    nn.PReLU(),
    nn.Hardtanh(-0.3, 0.4),
    nn.SELU(),
    nn.Dropout(0.5, inplace=True),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.AvgPool2d(3),
    nn.AvgPool2d(2, stride=3, ceil_mode=True),
    nn.AvgPool2d(3, padding=1, count_include_pad=False),
    nn.AdaptiveAvgPool2d(3),
    nn.AdaptiveMaxPool2d(3),
    nn.Upsample(scale_factor=2, mode="nearest"),
    nn.Upsample(scale_factor=2, mode="bilinear"),
    nn.ReflectionPad2d(1),
    nn.Dropout2d(0.5),
    nn.Identity(),
]


@pytest.mark.parametrize("between", ACTIVATIONS, ids=lambda layer: f"{type(layer).__name__}")
def test_constants_and_dead_channels_are_followed_through_operators(between: nn.Module) -> None:
    model = sequence(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), copy.deepcopy(between), nn.Conv2d(6, 5, 1))
    kill(model[0], rows=[1, 5])
    kill(model[3], columns=[0])
    assert shrunk(model) == {"0": (3, 3), "3": (3, 5)}


@pytest.mark.parametrize(
    "between",
    [nn.AvgPool2d(3, padding=1), nn.AvgPool2d(2, divisor_override=3), nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.5)],
    ids=lambda layer: f"{type(layer).__name__}",
)
def test_a_constant_that_changes_at_borders_stays_unless_it_is_zero(between: nn.Module) -> None:
    model = sequence(nn.Conv2d(3, 6, 3), nn.ReLU(), between, nn.Conv2d(6, 5, 1))
    kill(model[0], rows=[1, 5])
    model[0].bias.data[[1, 5]] = torch.tensor([-1.0, 2.0])
    kill(model[3], columns=[0])
    assert shrunk(model)["0"] == (3, 5 if type(between) is nn.ConstantPad2d else 4)


# Sums, concatenations, products


class Residual(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.norm1, self.norm2, self.relu = nn.BatchNorm2d(5), nn.BatchNorm2d(6), nn.ReLU(inplace)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.relu(self.stem(images))
        hidden = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(stem)))))
        return self.head(self.relu(hidden + stem))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_channel_of_a_sum_is_removed_only_when_it_is_dead_in_all_branches(inplace: bool) -> None:
    model = lively(Residual(inplace))
    kill(model.head, columns=[0, 1])
    kill(model.conv1, columns=[0])
    assert shrunk(model) == {"stem": (3, 5), "conv1": (5, 5), "conv2": (5, 5), "head": (5, 4)}


def test_constants_of_a_sum_add_up() -> None:
    model = lively(Residual())
    kill(model.stem, rows=[0, 1, 2])
    kill(model.conv2, rows=[0, 1, 3])
    kill(model.conv1, columns=[0, 1])
    assert shrunk(model) == {"stem": (3, 4), "conv1": (4, 5), "conv2": (5, 4), "head": (4, 4)}


def test_a_row_whose_output_is_dead_keeps_no_input() -> None:
    model = lively(Residual())
    kill(model.head, columns=[0])  # channel 0 of the sum is dead, but the branch itself reads channel 0 of the stem
    model.conv2.weight.data[1:, 4] = 0.0  # the last hidden channel goes into channel 0 only
    assert shrunk(model) == {"stem": (3, 6), "conv1": (6, 4), "conv2": (4, 6), "head": (6, 4)}


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)
        self.norm, self.head = nn.BatchNorm2d(9), nn.Conv2d(9, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.one(images), self.two(images)], dim=1)))


def test_concatenated_channels_are_removed_one_by_one() -> None:
    model = lively(Joined())
    kill(model.head, columns=[1, 5])
    kill(model.two, rows=[4])
    assert shrunk(model) == {"one": (3, 3), "two": (3, 3), "head": (6, 4)}


class Gated(nn.Module):
    """A squeeze-and-excitation block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.scale, self.head = nn.Parameter(torch.randn(6, 1, 1)), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.stem(images))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(stem, 1)))))
        return self.head(gate * stem * self.scale)


def test_in_a_product_with_zero_the_other_factor_is_dead() -> None:
    model = lively(Gated())
    model.scale.data[0] = 0.0
    kill(model.stem, rows=[1])
    model.stem.bias.data[1] = -1.0
    kill(model.down, columns=[0])
    compacted = compact(model, IMAGES)
    same(compacted, model)
    assert widths(compacted.layers) == {"stem": (3, 4), "down": (4, 3), "up": (3, 4), "head": (4, 4)}
    assert compacted.model.scale.shape == (4, 1, 1)


def test_of_two_zero_factors_one_is_kept() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.left, self.right = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images)
            both = torch.relu(self.left(stem) + 1.0) * torch.relu(self.right(stem) + 1.0)
            return self.head(self.head(both))  # twice, so that nothing folds

    model = lively(Product())
    kill(model.stem, rows=[0])
    model.stem.bias.data[0] = 2.0
    for layer in (model.left, model.right):  # both read the constant 2 for output 0 alone, and make it -1, or 0
        kill(layer, rows=[0], columns=[0])
        layer.weight.data[0, 0] = -1.0
    same(compact(model, IMAGES), model)


def test_channels_that_a_shortcut_pads_stay() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            stem = F.relu(self.stem(images))
            return self.head(self.conv(stem) + F.pad(stem[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))

    model = lively(Padded())
    kill(model.head, columns=[0, 1, 2])
    kill(model.conv, columns=[0])
    assert shrunk(model) == {"stem": (3, 3), "conv": (3, 7), "head": (7, 3)}


# Groups, shared layers, other shapes


def test_channels_of_a_depthwise_convolution_are_removed_on_both_sides() -> None:
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    model = sequence(nn.Conv2d(3, 6, 1), nn.ReLU6(), depthwise, nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 1))
    kill(model[5], columns=[0])
    kill(model[2], rows=[3])
    kill(model[0], rows=[5])
    model[0].bias.data[5] = -1.0
    compacted = compact(model, IMAGES)
    same(compacted, model)
    assert widths(compacted.layers) == {"0": (3, 3), "2": (3, 3), "5": (3, 4)}
    assert compacted.model[2].groups == 3


def test_whole_groups_of_a_grouped_convolution_are_removed() -> None:
    model = sequence(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(), nn.Conv2d(9, 4, 1))
    kill(model[3], columns=[0, 1, 2, 3])
    compacted = compact(model, IMAGES)
    same(compacted, model)
    assert widths(compacted.layers) == {"0": (3, 4), "1": (4, 6), "3": (6, 4)}
    assert compacted.model[1].groups == 2


def test_transposed_convolutions_shrink_on_both_sides() -> None:
    model = sequence(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, 2), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)
    )
    kill(model[0], rows=[1, 2])
    model[0].bias.data[1:3] = torch.tensor([-1.0, 2.0])
    kill(model[2], columns=[3])
    model[2].weight.data[5] = 0.0
    assert shrunk(model) == {"0": (3, 4), "2": (4, 4), "4": (4, 4)}


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions_shrink(dimensions: int) -> None:
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), None, (nn.Conv3d, nn.BatchNorm3d))[dimensions - 1] or (None, None)
    assert conv is not None
    assert norm is not None
    model = sequence(conv(3, 6, 3), norm(6), nn.ReLU(), conv(6, 4, 1))
    kill(model[0], rows=[0])
    kill(model[3], columns=[4])
    assert shrunk(model, (torch.zeros(2, 3, *([5] * dimensions)),)) == {"0": (3, 4), "3": (4, 4)}


def test_a_layer_that_runs_twice_keeps_channels_that_are_live_in_either_run() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.relu = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1), nn.ReLU(inplace=True)
            self.head = nn.Conv2d(5, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.relu(self.shared(self.relu(self.shared(self.relu(self.stem(images)))))))

    model = lively(Twice())
    kill(model.head, columns=[0, 1])
    kill(model.shared, columns=[0, 2])
    kill(model.stem, rows=[3])  # a constant, but not in the second run
    assert shrunk(model) == {"stem": (3, 4), "shared": (4, 4), "head": (4, 4)}


def test_a_tied_weight_is_cut_once_and_stays_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 5)
            self.right.weight = self.left.weight

        def forward(self, rows: Tensor) -> Tensor:
            stem = torch.relu(self.stem(rows))
            return self.left(stem) - self.right(stem * 2)

    model = lively(Tied())
    kill(model.left, columns=[0, 4])
    rows = (torch.zeros(3, 4),)
    compacted = compact(model, rows)
    same(compacted, model, rows)
    assert compacted.model.left.weight is compacted.model.right.weight
    assert compacted.model.right.in_features == 4


def test_linear_layers_over_the_last_axis_shrink() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up, self.down = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 8), nn.Linear(8, 4)
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.conv(images).flatten(2).transpose(1, 2)
            return self.head((tokens + self.down(F.gelu(self.up(self.norm(tokens))))).mean(1))

    model = lively(Mixer())
    kill(model.up, rows=[1, 2])
    kill(model.down, columns=[5])
    kill(model.head, columns=[0])
    assert shrunk(model) == {"conv": (3, 4), "up": (4, 5), "down": (5, 4), "head": (4, 3)}
    assert any("layer_norm" in note for note in compact(model, IMAGES).notes)


VIEWS: list[tuple[str, Callable[[Tensor], Tensor], int]] = [
    ("flatten", lambda x: x.flatten(1), 3),
    ("batch and -1", lambda x: x.view(x.size(0), -1), 3),
    ("reshape", lambda x: x.reshape(x.shape[0], -1), 3),
    ("mean", lambda x: x.mean((2, 3)), 3),
    ("squeezed", lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), 3),
    ("picked", lambda x: x[:, :, 1, 1], 3),
    ("spelled out", lambda x: x.mean((2, 3)).view(-1, 4), 4),
    ("all squeezed", lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(), 4),
    ("a slice of channels", lambda x: torch.cat([x[:, :3], x[:, 3:]], 1).mean((2, 3)), 4),
    ("shuffled", lambda x: x.view(2, 2, 2, 6, 6).transpose(1, 2).reshape(2, 4, 6, 6).mean((2, 3)), 4),
    ("counted", lambda x: x.sum(1, keepdim=True).expand(2, 4, 6, 6).mean((2, 3)), 4),
]


@pytest.mark.parametrize(("view", "kept"), [case[1:] for case in VIEWS], ids=[case[0] for case in VIEWS])
def test_sizes_written_in_a_forward_pass_keep_all_channels(view: Callable[[Tensor], Tensor], kept: int) -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(view(torch.zeros(2, 4, 6, 6)).shape[1], 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(view(torch.relu(self.conv(images))))

    model = lively(Viewed())
    kill(model.conv, rows=[2])
    assert shrunk(model)["conv"] == (3, kept)


class Functional(nn.Module):
    """Parameters used by functions; depthwise with groups written down, plain without."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem, self.groups = nn.Conv2d(3, 4, 1), groups
        self.weight = nn.Parameter(torch.randn(4, 4 // groups, 3, 3))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.conv2d(self.stem(images), self.weight, groups=self.groups))


def test_parameters_of_functions_are_cut_where_no_number_in_the_code_fixes_their_size() -> None:
    for groups, kept in ((1, (3, 3)), (4, (3, 4))):
        model = lively(Functional(groups))
        model.weight.data[:, :1] = 0.0 if groups == 1 else model.weight.data[:, :1]
        kill(model.head, columns=[0])
        assert shrunk(model)["stem"] == kept


def test_computed_weights_keep_all_channels() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return F.conv2d(images, self.weight - self.weight.mean(), self.bias)

    model = sequence(nn.Conv2d(3, 4, 1), Standardised(4, 4, 1), nn.Conv2d(4, 2, 1))
    kill(model[0], rows=[0])
    kill(model[2], columns=[1])
    assert shrunk(model)["0"] == (3, 4)
    assert compact(model, IMAGES).model[1].weight.shape == (4, 4, 1, 1)


# Writing in place


class InPlace(nn.Module):
    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write
        self.conv, self.skip, self.head, self.tail = (nn.Conv2d(c, 4, 1) for c in (3, 4, 4, 4))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images)
        before = self.skip(hidden)
        after = self.write(hidden)
        return self.head(hidden) + self.tail(after) + before


def _half(hidden: Tensor) -> Tensor:
    hidden[:, :2] = 1.0
    return hidden


@pytest.mark.parametrize(
    "write",
    [
        lambda h: h.relu_(),
        lambda h: (h.flatten(2).relu_(), h)[1],
        lambda h: (F.dropout(h, training=False).relu_(), h)[1],
        lambda h: h.view(h.shape).mul_(2.0),
        _half,
        torch.relu,
    ],
    ids=["itself", "a flat view", "dropout that is off", "a view", "a part", "not at all"],
)
def test_overwritten_values_are_not_taken_for_constants(write: Callable[[Tensor], Tensor]) -> None:
    model = lively(InPlace(write))
    kill(model.conv, rows=[0, 1])
    model.conv.bias.data[:2] = torch.tensor([-1.0, 2.0])
    kill(model.head, columns=[3])
    same(compact(model, IMAGES), model)


# Whole networks


def test_a_layer_is_never_emptied() -> None:
    model = sequence(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
    )
    kill(model[3], columns=range(4))
    assert shrunk(model) == {"0": (3, 1), "3": (1, 1), "4": (1, 2)}
    kill(model[0], rows=range(4))
    assert shrunk(model) == {"0": (3, 1), "3": (1, 1), "4": (1, 2)}


def test_inputs_and_outputs_of_the_network_stay() -> None:
    model = sequence(nn.Linear(4, 3))
    kill(model[0], rows=[0], columns=[1])
    assert shrunk(model, (torch.zeros(2, 4),)) == {"0": (4, 3)}


def test_a_network_without_dead_channels_comes_back_as_a_copy() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    compacted = compact(model, IMAGES)
    assert (compacted.removed, compacted.flops_after) == (0, compacted.flops_before)
    assert compacted.notes == ("there is nothing to remove",)
    assert all(map(torch.equal, compacted.model.state_dict().values(), model.state_dict().values()))
    assert not any(layer.changed for layer in compacted.layers)
    assert compacted.model[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_the_network_itself_is_left_as_it_is() -> None:
    model = Residual(inplace=True)
    lively(model).train()
    kill(model.head, columns=[0, 1])
    kill(model.conv1, columns=[0])
    before = copy.deepcopy(model.state_dict())
    compacted = compact(model, IMAGES)
    assert compacted.removed == 2
    assert model.training
    assert not compacted.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mine = {parameter.data_ptr() for parameter in model.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in compacted.model.parameters())
    assert all(parameter.requires_grad for parameter in compacted.model.parameters())


def test_several_inputs_and_outputs_work_and_flops_are_unknown() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(1, 5, 3), nn.Conv2d(5, 2, 1)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            hidden = self.left(left) + self.right(right)
            return {"out": self.head(hidden), "mean": self.head(hidden).mean((2, 3))}

    model = lively(Pair())
    kill(model.head, columns=[1])
    compacted = compact(model, (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)))
    assert widths(compacted.layers) == {"left": (3, 4), "right": (1, 4), "head": (4, 2)}
    assert compacted.flops_after is None
    assert any("FLOPs" in note for note in compacted.notes)


def test_half_precision_folds_zeros_only() -> None:
    model = sequence(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).bfloat16()
    kill(model[0], rows=[0, 1])
    model[0].bias.data[:2] = torch.tensor([-1.0, 2.0])
    compacted = compact(model, (torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16),))
    assert widths(compacted.layers) == {"0": (3, 5), "2": (5, 4)}
    assert compacted.model[0].weight.dtype == torch.bfloat16


def test_parameters_unused_in_evaluation_are_left_and_named() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.conv(images)
            return self.head(hidden) + self.other(hidden) if self.training else self.head(hidden)

    model = lively(Auxiliary())
    kill(model.head, columns=[0])
    compacted = compact(model, IMAGES)
    assert compacted.model.other.in_channels == 4
    assert any("other.weight and 1 more take no part" in note for note in compacted.notes)


def test_the_report_is_plain_data() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    kill(model[1], columns=[0])
    report = compact(model, IMAGES).as_json()
    assert report["removed"] == 1
    assert report["parameters"] == {"before": 122, "after": 92}
    assert report["layers"][0]["outputs_kept"] == 3


# Refusals


class Counting(nn.Module):
    """A forward pass whose shapes are right and whose numbers depend on the number of channels."""

    def __init__(self, fail: bool) -> None:
        super().__init__()
        self.conv, self.head, self.fail = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), fail

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images)
        if self.fail and hidden.shape[1] != 4:
            raise ValueError("four, please")
        return self.head(hidden) * hidden.shape[1]


@pytest.mark.parametrize(("fail", "message"), [(True, "four, please"), (False, "does not compute the same")])
def test_a_network_that_is_not_the_same_afterwards_is_refused(fail: bool, message: str) -> None:
    model = lively(Counting(fail))
    kill(model.head, columns=[0])
    with pytest.raises(ModelError, match=message):
        compact(model, IMAGES)


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    ("model", "example", "kind", "message"),
    [
        (nn.Linear(4, 2), (), UsageError, "example"),
        (nn.Linear(4, 2), [torch.zeros(1, 4)], UsageError, "example"),
        (nn.Linear(4, 2), (torch.zeros(1, 5),), ModelError, "does not run on the example"),
        (Branching(), IMAGES, ModelError, "cannot be traced"),
        (nn.Linear(4, 2, device="meta"), (torch.zeros(1, 4),), ModelError, "no weights to look at"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), (torch.zeros(1, 4),), None, ""),
    ],
)
def test_unusable_models_and_examples_are_errors(
    model: nn.Module, example: tuple[Tensor, ...], kind: type[GranetError] | None, message: str
) -> None:
    if kind is None:
        assert compact(model, example).removed == 0
    else:
        with pytest.raises(kind, match=message):
            compact(model, example)


def test_outputs_that_are_not_finite_are_an_error() -> None:
    model = sequence(nn.Linear(4, 2))
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        compact(model, (torch.zeros(2, 4),))


@pytest.mark.parametrize(
    ("got", "share"),
    [
        ([[2.0, -4.0], [0.0]], 0.0),
        ([[2.0, -3.0], [0.0]], 0.25),
        ([[2.0, -4.0], [1e-3]], 1e-3),  # nothing to be a share of
        ([[2.0, torch.nan], [0.0]], torch.inf),
        ([[2.0, -torch.inf], [0.0]], torch.inf),
        ([[2.0], [0.0]], torch.inf),
        ([[2.0, -4.0]], torch.inf),
    ],
)
def test_the_difference_of_outputs_is_a_share_of_the_largest_value(got: list[list[float]], share: float) -> None:
    expected = [nn.Parameter(torch.tensor([2.0, -4.0])), torch.zeros(1)]  # a network may return its own weight
    found = difference([expected], [[torch.tensor(values) for values in got]])
    assert found == pytest.approx(share)
