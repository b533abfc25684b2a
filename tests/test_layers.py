"""Which parameters are masked, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from granet import Sparsifier
from granet.errors import UnknownNameError, UsageError
from granet.masks.mapping import active
from granet.methods import (
    RigLITOP,
    Static,
)
from tests.running import (
    MASKED,
    OPTIMIZERS,
    Run,
    network,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight
        self.again = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.second(torch.tanh(self.first(x)))))  # type: ignore[no-any-return]


def test_tied_parameters_share_one_mask_under_their_first_name() -> None:
    torch.manual_seed(0)
    model = Tied()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsifier = Sparsifier(model, optimizer, RigLITOP(density=0.3, interval=2), total_steps=6)
    assert list(sparsifier.masks) == ["first.weight", "head.weight"]
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
    assert not model.second.weight[~sparsifier.masks["first.weight"]].any()
    assert sum(active(sparsifier.masks).values()) == round(0.3 * (64 + 24))


@pytest.mark.parametrize("pattern", ["first", "second", "second.weight"])
def test_any_name_of_a_tied_parameter_keeps_it_dense(pattern: str) -> None:
    model = Tied()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, optimizer, Static(density=0.5), total_steps=1, dense=(pattern,))
    assert list(sparsifier.masks) == ["head.weight"]


# Which layers


def test_patterns_keep_layers_dense() -> None:
    for dense, masked in (
        (("conv",), ["fc1.weight", "fc2.weight"]),
        (("conv.weight",), ["fc1.weight", "fc2.weight"]),
        (("fc*",), ["conv.weight"]),
        (("fc?", "conv*"), []),
        (("fc[2]",), ["conv.weight", "fc1.weight"]),
    ):
        if masked:
            run = Run(Static(density=0.3), dense=dense)
            assert list(run.sparsifier.masks) == masked
            run.steps(2)
            assert all(run.model.get_parameter(name).all() for name in MASKED if name not in masked)
        else:
            with pytest.raises(UsageError, match="nothing to mask; got 3 weights of layers, all kept dense"):
                Run(Static(density=0.3), dense=dense)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_layer() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layer in a dense pattern 'fc3'. Did you mean 'fc"):
        Run(Static(density=0.3), dense=("conv", "fc3"))
    with pytest.raises(UnknownNameError, match="unknown layer in a dense pattern 'norm'"):
        Run(Static(density=0.3), dense=("norm",))


def test_a_single_string_is_not_a_sequence_of_patterns() -> None:
    with pytest.raises(UsageError, match=r"dense.*'conv'.*\('conv',\)"):
        Run(Static(density=0.3), dense="conv")


def test_all_kinds_of_convolution_are_masked_and_nothing_else() -> None:
    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    model = nn.ModuleList(
        [*(kind(2, 3, 2) for kind in kinds), nn.Linear(4, 3), nn.Embedding(5, 3), nn.LayerNorm(4), nn.PReLU()]
    )
    sparsifier = Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.5), total_steps=1)
    assert list(sparsifier.masks) == [f"{number}.weight" for number in range(7)]


def test_a_module_that_is_itself_a_layer() -> None:
    model = nn.Linear(8, 4)
    sparsifier = Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.5), total_steps=1)
    assert list(sparsifier.masks) == ["weight"]


class Compiled(nn.Module):
    """Stands in for what ``torch.compile`` returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        Compiled,
        lambda model: nn.DataParallel(Compiled(model)),
        lambda model: Compiled(nn.DataParallel(model)),
    ],
)
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(network())
    sparsifier = Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.5), total_steps=1)
    assert list(sparsifier.masks) == list(MASKED)


def test_a_frozen_weight_is_refused_unless_kept_dense() -> None:
    model = network()
    model.get_parameter("fc1.weight").requires_grad_(False)
    with pytest.raises(
        UsageError, match=r"fc1.weight: a frozen weight cannot be masked. Keep the layer dense with dense=\('fc1',\)"
    ):
        Run(Static(density=0.3), model=model)
    assert list(Run(Static(density=0.3), model=model, dense=("fc1",)).sparsifier.masks) == ["conv.weight", "fc2.weight"]


def test_an_optimizer_that_lacks_a_parameter_is_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.conv.parameters(), lr=0.1)  # type: ignore[operator,union-attr]
    with pytest.raises(UsageError, match=r"fc1.weight: the optimizer does not hold this parameter"):
        Sparsifier(model, optimizer, Static(density=0.3), total_steps=1)
    Sparsifier(model, optimizer, Static(density=0.3), total_steps=1, dense=("fc*",))


PARAMETRIZED = {
    "parametrization": nn.utils.parametrizations.spectral_norm,
    "weight_norm": nn.utils.parametrizations.weight_norm,
}


@pytest.mark.parametrize("parametrize", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_a_computed_weight_is_refused_unless_kept_dense(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    parametrize(model.get_submodule("fc1"))
    with pytest.raises(UsageError, match=r"fc1.weight: the weight is computed, not a parameter"):
        Run(Static(density=0.3), model=model)
    run = Run(Static(density=0.3), model=model, dense=("fc1",))
    assert list(run.sparsifier.masks) == ["conv.weight", "fc2.weight"]
    run.steps(2)


def test_a_lazy_layer_is_refused_until_it_has_a_shape() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(
        UsageError, match=r"0.weight: the weight has no shape yet. Keep the layer dense.*or run one batch"
    ):
        Sparsifier(model, optimizer, Static(density=0.5), total_steps=1)
    model(torch.randn(2, 3))
    Sparsifier(model, optimizer, Static(density=0.5), total_steps=1)


def test_a_model_without_layers_to_mask_is_refused() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(UsageError, match="Sequential: there is nothing to mask; got no such layer"):
        Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.5), total_steps=1)
