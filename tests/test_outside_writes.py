"""Masks hold, or an error says why not, whatever else changes weights, optimizer state, layers or the optimizer."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from granet import Sparsifier
from granet.errors import UsageError
from granet.masks.mapping import density
from granet.methods import GraNet, RigL, Static
from granet.sparsifier import sweep
from tests.running import METHODS, OPTIMIZERS, Run, identical, loss_at, network


def stray(run: Run) -> dict[str, int]:
    found = {name: int(tensor[~mask].count_nonzero()) for name, tensor, mask in run.masked_tensors()}
    return {name: count for name, count in found.items() if count}


def assert_masked_after_every_step(run: Run, steps: int = 3) -> None:
    for _ in range(steps):
        run.step()
        assert not stray(run)
    assert run.sparsifier.density == density(run.sparsifier.masks)


# Weights that somebody else writes


def swap_in_an_average(model: nn.Module) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(network())
    for own, other in zip(model.parameters(), averaged.parameters(), strict=True):
        own.data.copy_(other.data)


def give_new_storage(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = torch.ones_like(parameter)
        parameter.data = parameter.data + 1  # which may lie where the weights did before


def copy_in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.copy_(torch.ones_like(parameter))


WRITES: dict[str, Callable[[nn.Module], object]] = {
    "load_state_dict": lambda model: model.load_state_dict(network().state_dict()),
    "an average through .data": swap_in_an_average,
    "new storage": give_new_storage,
    "init functions": lambda model: [nn.init.normal_(p) for p in model.parameters()],
    "init through .data": lambda model: [p.data.normal_() for p in model.parameters()],
    "reset_parameters": lambda model: model.apply(lambda m: getattr(m, "reset_parameters", int)()),
    "vector_to_parameters": lambda model: nn.utils.vector_to_parameters(
        torch.ones(sum(p.numel() for p in model.parameters())), model.parameters()
    ),
    "a shared array": lambda model: [p.detach().numpy().fill(1) for p in model.parameters()],
    "inference mode": copy_in_inference_mode,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("optimizer", ["sgd-fused", "adamw", "adamax"])
def test_weights_that_others_write_are_masked(write: Callable[[nn.Module], object], optimizer: str) -> None:
    run = Run(Static(density=0.2), OPTIMIZERS[optimizer])
    run.steps(2)
    write(run.model)
    assert run.sparsifier.density > 0.9, "what is written counts until it is masked"
    assert_masked_after_every_step(run)


def test_weights_can_be_masked_at_once() -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.model.load_state_dict(network().state_dict())
    run.sparsifier.apply_masks()
    assert not stray(run)
    assert run.sparsifier.density == density(run.sparsifier.masks)


def test_weights_that_are_swapped_out_again_leave_no_trace() -> None:
    plain, swapped = Run(METHODS["granet"]), Run(METHODS["granet"])
    for run in (plain, swapped):
        run.steps(3)
    own = copy.deepcopy(swapped.model.state_dict())
    swapped.model.load_state_dict(network().state_dict())
    swapped.model.load_state_dict(own)
    for run in (plain, swapped):
        run.steps(5)
    assert identical(plain.state(), swapped.state())


def test_a_large_network_is_masked_share_by_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SHARE", 64)
    run = Run(Static(density=0.2))
    run.step()
    before = run.model.get_parameter("fc1.weight")
    before.data.fill_(1)
    densities = []
    for _ in range(10):
        run.step()
        densities.append(run.sparsifier.density)
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > densities[3] > densities[-1] == density(run.sparsifier.masks)
    assert not stray(run)


def test_a_copy_in_another_memory_format_is_masked() -> None:
    run = Run(Static(density=0.2), model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 4), nn.Flatten()))
    run.step()
    run.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in run.model.parameters():
        parameter.data.fill_(1)
    assert_masked_after_every_step(run)


# Optimizer state


def load_dense_state(run: Run) -> None:
    dense = Run(METHODS["dense"], OPTIMIZERS["sgd-momentum"])
    dense.steps(2)
    run.optimizer.load_state_dict(dense.optimizer.state_dict())


def replace_state(run: Run) -> None:
    for parameter in run.model.parameters():
        run.optimizer.state[parameter] = {"momentum_buffer": torch.ones_like(parameter)}


def fill_state(run: Run) -> None:
    for state in run.optimizer.state.values():
        state["momentum_buffer"].data.fill_(1)


@pytest.mark.parametrize("write", [load_dense_state, replace_state, fill_state])
def test_optimizer_state_that_others_write_is_masked(write: Callable[[Run], None]) -> None:
    run = Run(Static(density=0.2))
    run.steps(2)
    write(run)
    assert stray(run)
    assert_masked_after_every_step(run)


# Optimizers


class Lookahead:
    """A wrapper without hooks that writes weights after the step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._slow = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]

    def step(self) -> None:
        self.optimizer.step()
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        for slow, weight in zip(self._slow, weights, strict=True):
            slow.lerp_(weight.detach(), 0.5)
            weight.data.copy_(slow)


class Wrapping(torch.optim.Optimizer):
    """A wrapper with hooks and an optimizer inside."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        for state in self.inner.state.values():
            state["momentum_buffer"].add_(1)


def test_a_wrapper_that_writes_weights_after_the_step() -> None:
    run = Run(METHODS["granet"])
    wrapper = Lookahead(run.optimizer)
    for _ in range(12):
        run.backward()
        wrapper.step()
        run.sparsifier.step()
        assert not stray(run)


def test_a_sparsifier_of_a_wrapper_masks_the_state_inside() -> None:
    model = network()
    inner = OPTIMIZERS["sgd-momentum"](model.parameters())
    wrapper = Wrapping(inner)
    sparsifier = Sparsifier(model, wrapper, GraNet(density=0.1, interval=2), total_steps=12)
    for step in range(12):
        wrapper.zero_grad()
        loss_at(model, step).backward()
        wrapper.step()
        sparsifier.step()
        for name, mask in sparsifier.masks.items():
            parameter = model.get_parameter(name)
            assert not parameter[~mask].any()
            assert not inner.state[parameter]["momentum_buffer"][~mask].any()


@pytest.mark.parametrize("make", ["sgd", "adamw-fused"])
@pytest.mark.parametrize("steps", [0, 3])
def test_another_optimizer_is_noticed_at_its_first_step(make: str, steps: int) -> None:
    run = Run(METHODS["granet"])
    run.steps(steps)
    other = OPTIMIZERS[make](run.model.parameters())
    run.backward()
    other.step()
    with pytest.raises(
        UsageError,
        match=rf"step {steps + 1}: .* before optimizer.step\(\); got no step of the SGD .* sparsifier.attach\(\)",
    ):
        run.sparsifier.step()


def test_another_optimizer_can_be_attached() -> None:
    run = Run(METHODS["granet"])
    run.steps(4)
    run.optimizer = OPTIMIZERS["adamw"](run.model.parameters())
    run.sparsifier.attach(run.optimizer)
    assert_masked_after_every_step(run, 8)
    assert run.sparsifier.steps == 12


def test_a_step_left_out_on_purpose_is_announced() -> None:
    run = Run(METHODS["granet"])
    run.steps(3)
    run.backward()
    assert run.sparsifier.step(skipped=True) is not None
    assert run.sparsifier.steps == 4


@pytest.mark.parametrize("what", [[1], nn.Linear(1, 1)])
def test_what_is_no_optimizer_is_refused(what: Any) -> None:
    with pytest.raises(UsageError, match="not an optimizer of torch; got"):
        Sparsifier(network(), what, Static(density=0.2), total_steps=3)


def test_an_optimizer_whose_parameters_were_replaced_is_refused() -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.optimizer.param_groups.clear()
    run.optimizer.add_param_group({"params": list(copy.deepcopy(run.model).parameters())})
    with pytest.raises(UsageError, match=r"conv\.weight: the optimizer does not hold this parameter"):
        run.step()


# Layers


def tie(model: nn.Module) -> None:
    model.fc1.weight = nn.Linear(64, 8).weight  # type: ignore[union-attr]


def replace(model: nn.Module) -> None:
    model.fc1 = nn.Linear(64, 8)


LAYERS: dict[str, Callable[[nn.Module], object]] = {
    "assign": lambda model: model.load_state_dict(network().state_dict(), assign=True),
    "tied": tie,
    "replaced": replace,
    "parametrized": lambda model: nn.utils.parametrizations.orthogonal(model.fc1),
    "weight_norm": lambda model: nn.utils.weight_norm(model.fc1),
    "pruned": lambda model: prune.l1_unstructured(model.fc1, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", LAYERS.values(), ids=LAYERS)
def test_a_layer_that_gets_another_weight_is_refused(change: Callable[[nn.Module], object]) -> None:
    run = Run(Static(density=0.2))
    run.step()
    change(run.model)
    with pytest.raises(UsageError, match="weight: the layer has another weight than when the sparsifier was made"):
        run.step()


def test_a_layer_that_is_added_is_refused() -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.model.append(nn.Linear(3, 3))  # type: ignore[operator]
    run.optimizer.add_param_group({"params": run.model[-1].parameters()})  # type: ignore[index]
    with pytest.raises(UsageError, match=r"7\.weight: the layer was added after the sparsifier was made"):
        run.step()


def test_a_bias_that_is_added_is_nobodys_business() -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    run.optimizer.add_param_group({"params": [run.model.get_parameter("scale")]})
    assert_masked_after_every_step(run)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_is_converted_is_refused(dtype: torch.dtype) -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.optimizer.zero_grad()
    run.model.to(dtype)
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(UsageError, match=r"conv\.weight: the model was converted after the sparsifier was made; got"):
        run.optimizer.step()


# Copies


def pickled(three: Any) -> Any:
    file = io.BytesIO()
    torch.save(three, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copies", [copy.deepcopy, pickled])
@pytest.mark.parametrize("method", ["granet", "snfs", "rigl", "static"])
@pytest.mark.parametrize("pause", [0, 3])
def test_copies_of_the_three_go_on_as_the_originals(copies: Callable[[Any], Any], method: str, pause: int) -> None:
    run, copied = Run(METHODS[method]), Run(METHODS[method])
    run.steps(pause)
    copied.sparsifier, copied.model, copied.optimizer = copies((run.sparsifier, run.model, run.optimizer))
    updates, again = run.steps(8), copied.steps(8)
    assert [update.counts for update in updates] == [update.counts for update in again]
    assert identical(run.state(), copied.state())
    assert not stray(copied)


def test_a_sparsifier_copied_without_its_optimizer_is_noticed() -> None:
    run = Run(METHODS["granet"])
    run.steps(3)
    alone = copy.deepcopy(run.sparsifier)
    run.backward()
    run.optimizer.step()
    with pytest.raises(UsageError, match=r"called before optimizer.step\(\)"):
        alone.step()


def test_a_copied_model_that_another_optimizer_trains_is_noticed() -> None:
    run = Run(RigL(density=0.3, interval=3))
    run.steps(4)
    model = copy.deepcopy(run.model)
    other = OPTIMIZERS["sgd"](model.parameters())
    loss_at(model, 4).backward()
    other.step()
    with pytest.raises(UsageError, match="got no step of the SGD that the sparsifier was made with"):
        run.sparsifier.step()


def test_a_copy_of_the_model_is_free() -> None:
    run = Run(METHODS["granet"])
    run.steps(3)
    average = copy.deepcopy(run.model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.fill_(1)
    assert_masked_after_every_step(run)
