"""The sparsifier keeps a model sparse, says what it changed, and resumes as if nothing had happened."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from granet import Sparsifier
from granet.errors import UsageError
from granet.masks.mapping import active
from granet.methods import (
    SET,
    Dense,
    GraNet,
    RigL,
    Static,
)
from granet.methods.base import Method
from granet.methods.snapshot import Snapshot
from granet.topology import TopologyUpdate
from tests.running import (
    MASKED,
    METHODS,
    OPTIMIZERS,
    TOTAL,
    Make,
    Run,
    Scripted,
    every_method,
    identical,
    loss_at,
    network,
)

# What is masked


def test_three_lines_in_a_loop_of_ones_own() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = Sparsifier(model, optimizer, GraNet(density=0.1, interval=3), total_steps=20)
    for step in range(20):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
        sparsifier.step()
    assert {name: mask.numel() for name, mask in sparsifier.masks.items()} == MASKED
    assert sum(active(sparsifier.masks).values()) == 57 == round(0.1 * 572)
    assert sparsifier.density == 57 / 572
    assert sparsifier.steps == 20
    for name, mask in sparsifier.masks.items():
        assert not model.get_parameter(name)[~mask].any()


@every_method
def test_weights_and_state_are_masked_by_every_method(method: Method) -> None:
    run = Run(method)
    for _ in range(TOTAL):
        run.step()
        for name, tensor, mask in run.masked_tensors():
            assert not tensor[~mask].any(), name


def test_the_dense_control_is_plain_training() -> None:
    run = Run(Dense())
    run.steps(5)
    model = network()
    optimizer = OPTIMIZERS["sgd-momentum"](model.parameters())
    for step in range(5):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
    assert identical(run.model.state_dict(), model.state_dict())


def test_masks_that_were_handed_out_stay_as_they_were() -> None:
    run = Run(METHODS["granet"])
    first = run.sparsifier.masks
    copies = {name: mask.clone() for name, mask in first.items()}
    first["fc1.weight"].fill_(False)
    assert run.steps(4)
    assert identical(dict(first), copies)
    assert not identical(dict(run.sparsifier.masks), copies)


def test_masks_lie_in_memory_as_their_weights_do() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, SET(density=0.3, interval=1), total_steps=3)
    for _ in range(2):
        for name, mask in sparsifier.masks.items():
            assert mask.stride() == model.get_parameter(name).stride()
        optimizer.step()
        sparsifier.step()


def test_masks_depend_on_the_seed_alone_and_leave_global_randomness_alone() -> None:
    model = network()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = Sparsifier(model, OPTIMIZERS["sgd"](model.parameters()), Static(density=0.2), total_steps=1).masks
    assert torch.equal(torch.get_rng_state(), before)
    assert identical(first, Run(Static(density=0.2)).sparsifier.masks)
    assert not identical(first, Run(Static(density=0.2), seed=1).sparsifier.masks)


# An update


def test_step_returns_the_update_when_one_was_due() -> None:
    run = Run(GraNet(density=0.1, interval=3))
    assert [bool(run.step()) for _ in range(4)] == [False, False, True, False]
    run.sparsifier.close()
    again = Run(GraNet(density=0.1, interval=3))
    update = again.steps(3)[0]
    assert update.step == 3
    assert update.density == again.sparsifier.density
    assert identical(update.masks, again.sparsifier.masks)


def scripted_swap(at: Snapshot) -> TopologyUpdate:
    """Of fc1: row 0 pruned, row 1 pruned and regrown, row 2 dropped and regrown, row 3 dropped, row 4 grown."""
    before = at.masks["fc1.weight"]
    assert before[:4].all()
    assert not before[4].any()
    pruned, after = before.clone(), before.clone()
    pruned[:2] = False
    after[[0, 3]], after[4] = False, True
    masks = dict(at.masks)
    return at.outcome({**masks, "fc1.weight": pruned}, {**masks, "fc1.weight": after})


@pytest.mark.parametrize("optimizer", [OPTIMIZERS["sgd-momentum"], OPTIMIZERS["adam-fused"]], ids=["sgd", "adam"])
def test_what_keeps_its_value_and_what_restarts_at_zero(optimizer: Make) -> None:
    run = Run(Scripted(scripted_swap), optimizer)
    state = run.state()
    state["Sparsifier"]["masks"]["fc1.weight"][4:] = False
    run.load(state)
    run.step()
    run.backward()
    run.optimizer.step()
    before = {name: tensor.clone() for name, tensor, _ in run.masked_tensors() if name.startswith("fc1")}
    assert len(before) > 1
    assert all(tensor[:4].all() for tensor in before.values())
    assert run.sparsifier.step() is not None
    for name, tensor, _ in run.masked_tensors():
        if name.startswith("fc1"):
            assert torch.equal(tensor[2], before[name][2])
            assert not tensor[[0, 1, 3, 4, 5, 6, 7]].any()
    mask = run.sparsifier.masks["fc1.weight"]
    assert mask.all(dim=1).tolist() == [False, True, True, False, True, False, False, False]
    run.step()
    weight = run.model.get_parameter("fc1.weight")
    assert weight[mask].all(), "grown weights train"
    assert not weight[~mask].any()


def test_growth_sees_the_dense_gradient_of_the_step() -> None:
    seen: list[dict[str, Tensor]] = []

    def look(at: Snapshot) -> TopologyUpdate:
        seen.append({name: gradient.clone() for name, gradient in at.gradients.items()})
        return at.outcome(at.masks, at.masks)

    run = Run(Scripted(look))
    state = run.state()
    for mask in state["Sparsifier"]["masks"].values():
        mask.flatten()[1:] = False
    run.load(state)
    run.step()
    run.backward()
    dense = {name: run.model.get_parameter(name).grad.clone() for name in MASKED}  # type: ignore[union-attr]
    run.optimizer.step()
    run.sparsifier.step()
    assert identical(seen[0], dense)
    assert all(gradient.flatten()[1:].any() for gradient in dense.values())


def test_exploration_is_the_union_of_all_masks() -> None:
    run = Run(SET(density=0.2, interval=2))
    union = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    assert identical(run.sparsifier.explored, union)
    for update in run.steps(TOTAL):
        union = {name: mask | update.masks[name] for name, mask in union.items()}
    assert identical(run.sparsifier.explored, union)
    assert run.sparsifier.exploration_rate == sum(active(union).values()) / 572 > run.sparsifier.density


# Resuming


@pytest.mark.parametrize(("optimizer", "pause"), [("sgd-nesterov", 5), ("adamw-fused", 6)])
@every_method
def test_resuming_continues_bit_by_bit(method: Method, optimizer: str, pause: int) -> None:
    whole = Run(method, OPTIMIZERS[optimizer])
    whole.steps(pause)
    state = whole.state()
    updates = whole.steps(TOTAL - pause)
    resumed = Run(method, OPTIMIZERS[optimizer])
    resumed.steps(2)  # the state replaces whatever was there
    resumed.load(state)
    assert identical(resumed.state(), state)
    again = resumed.steps(TOTAL - pause)
    assert identical(whole.state(), resumed.state())
    assert [update.step for update in updates] == [update.step for update in again]
    assert [update.counts for update in updates] == [update.counts for update in again]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("rigl-itop", "step"),
        ("granet", "masks"),
        ("rigl-itop", "masks"),
        ("rigl-itop", "explored"),
        ("snfs", "momenta"),
        ("granet-momentum", "momenta"),
        ("set", "step"),
    ],
)
def test_every_field_of_the_state_matters(name: str, field: str) -> None:
    method = METHODS[name]
    whole = Run(method)
    whole.steps(7)
    state = whole.state()
    whole.steps(TOTAL - 7)
    resumed = Run(method)
    state["Sparsifier"][field] = resumed.sparsifier.state_dict()[field]
    resumed.load(state)
    resumed.steps(TOTAL - 7)
    assert not identical(whole.state(), resumed.state())


def test_a_state_brings_its_own_masks() -> None:
    run = Run(Static(density=0.2))
    run.steps(3)
    state = run.state()
    fresh = Run(Static(density=0.2), seed=1)
    fresh.load(state)
    assert identical(fresh.sparsifier.masks, run.sparsifier.masks)
    fresh.step()
    run.step()
    assert identical(fresh.state(), run.state())


def test_the_state_is_plain_data() -> None:
    run = Run(METHODS["snfs"])
    run.steps(5)
    file = io.BytesIO()
    torch.save(run.sparsifier.state_dict(), file)
    file.seek(0)
    assert identical(torch.load(file, weights_only=True), run.sparsifier.state_dict())


def test_loading_masks_the_model() -> None:
    run = Run(Static(density=0.2))
    state = run.state()["Sparsifier"]
    other = Run(Dense())
    other.step()
    other.sparsifier.load_state_dict(state)
    assert all(not tensor[~mask].any() for _, tensor, mask in other.masked_tensors())
    assert other.sparsifier.density == run.sparsifier.density


@pytest.mark.parametrize("field", ["masks", "explored", "momenta"])
def test_a_state_of_other_layers_is_refused_and_changes_nothing(field: str) -> None:
    run = Run(METHODS["snfs"])
    run.steps(4)
    before = run.state()
    other = Run(METHODS["snfs"], seed=1).state()["Sparsifier"]
    other[field]["fc2.weight"] = other[field]["fc2.weight"][:2]
    with pytest.raises(UsageError, match=rf"{field}: the state belongs to other layers; got fc2\.weight"):
        run.sparsifier.load_state_dict(other)
    assert identical(run.state(), before)


def test_a_state_of_another_growth_is_refused() -> None:
    with pytest.raises(UsageError, match="momenta: the state belongs to other layers"):
        Run(METHODS["granet"]).sparsifier.load_state_dict(Run(METHODS["snfs"]).sparsifier.state_dict())


def test_loading_leaves_earlier_updates_as_they_were() -> None:
    run = Run(METHODS["granet"])
    start = run.state()
    update = run.steps(2)[0]
    masks = copy.deepcopy(dict(update.masks))
    run.load(start)
    assert identical(update.masks, masks)


# Misuse


def test_a_missing_sparsifier_step_is_noticed() -> None:
    run = Run(METHODS["granet"])
    run.step()
    run.backward()
    run.optimizer.step()
    with pytest.raises(
        UsageError, match=r"step 2: optimizer.step\(\) was called twice without sparsifier.step\(\) between"
    ):
        run.optimizer.step()
    run.sparsifier.step()
    run.step()


def test_a_step_that_failed_can_be_tried_again() -> None:
    run = Run(METHODS["granet"])

    def fails() -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        run.optimizer.step(fails)
    run.step()
    assert all(not tensor[~mask].any() for _, tensor, mask in run.masked_tensors())


@pytest.mark.parametrize("name", ["granet", "rigl", "rigl-itop", "snfs"])
def test_clearing_gradients_too_early_is_noticed(name: str) -> None:
    run = Run(METHODS[name])

    def forgetful_steps() -> None:
        for _ in range(3):
            run.backward()
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.sparsifier.step()

    with pytest.raises(UsageError, match=r"conv.weight and 2 more: there is no gradient.*before zero_grad\(\)"):
        forgetful_steps()


def test_a_layer_that_the_loss_does_not_reach_is_named() -> None:
    run = Run(METHODS["granet"], model=nn.ModuleDict({"used": network(), "unused": nn.Linear(4, 4)}))
    loss_at(run.model.get_submodule("used"), 0).backward()
    run.optimizer.step()
    run.sparsifier.step()
    run.optimizer.step()
    with pytest.raises(UsageError, match=r"^unused.weight: there is no gradient to grow by.*keep layers dense"):
        run.sparsifier.step()


def test_a_model_that_moved_is_noticed() -> None:
    run = Run(METHODS["granet"])
    weight = run.model.get_parameter("conv.weight")
    torch.utils.swap_tensors(weight, nn.Parameter(torch.empty_like(weight, device="meta")))
    with pytest.raises(
        UsageError, match=r"conv.weight: the model moved after the sparsifier was made; got meta; expected cpu"
    ):
        run.optimizer.step()


def test_a_method_that_does_not_fit_is_refused_before_anything_changes() -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(UsageError, match="the interval yields no update"):
        Sparsifier(model, optimizer, SET(density=0.2), total_steps=100)
    assert identical(model.state_dict(), network().state_dict())
    optimizer.step()
    optimizer.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1.5}, r"seed: not a whole number; got 1\.5"),
        ({"seed": True}, "seed: not a whole number; got True"),
        ({"seed": "1"}, "seed: not a whole number; got '1'"),
        ({"total_steps": True}, "total_steps: a run needs steps; got True"),
        ({"total_steps": 16.0}, r"total_steps: a run needs steps; got 16\.0"),
    ],
)
def test_numbers_that_are_not_whole_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Run(Static(density=0.2), **settings)


def test_an_update_that_fails_leaves_masks_and_weights_alone() -> None:
    run = Run(METHODS["granet"])
    run.steps(2)
    run.step()
    run.backward()
    run.optimizer.step()
    with torch.no_grad():
        run.model.get_parameter("fc1.weight")[run.sparsifier.masks["fc1.weight"]] = torch.nan
    before = run.state()
    with pytest.raises(UsageError, match=r"fc1\.weight: scores contain NaN"):
        run.sparsifier.step()
    after = run.state()
    assert identical(before["Sparsifier"]["masks"], after["Sparsifier"]["masks"])
    assert torch.equal(before["Sequential"]["fc2.weight"], after["Sequential"]["fc2.weight"])


class Waits(TorchDispatchMode):
    """Refuses whatever would make a GPU's host wait for it."""

    WAITS = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique", "item"})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, name
        boolean = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not boolean, "indexing by a mask counts what is True"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd-fused", "adamw-fused", "rmsprop-foreach"])
@every_method
def test_between_updates_nothing_waits_for_the_device(method: Method, optimizer: str) -> None:
    run = Run(method, OPTIMIZERS[optimizer])
    run.step()
    steps = [step for step in range(2, TOTAL) if not method.due(step, TOTAL)]
    for step in range(2, TOTAL):
        run.backward()
        with Waits() if step in steps else contextlib.nullcontext():
            run.optimizer.step()
            run.sparsifier.step()
    assert steps


def test_the_check_that_nothing_waits_would_notice() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Waits():
        bool(torch.zeros(()))
    with pytest.raises(AssertionError, match="by a mask"), Waits():
        torch.zeros(3)[torch.ones(3, dtype=torch.bool)]


def test_a_closed_sparsifier_lets_go() -> None:
    run = Run(Static(density=0.2))
    run.step()
    run.sparsifier.close()
    run.sparsifier.close()
    for step in range(2):
        run.optimizer.zero_grad()
        loss_at(run.model, step).backward()
        run.optimizer.step()
    assert run.model.get_parameter("fc1.weight").count_nonzero() > 400


def test_the_reversed_order_is_refused_at_the_first_step() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, RigL(density=0.5, interval=1), total_steps=10)
    model(torch.ones(1, 8)).sum().backward()
    with pytest.raises(UsageError, match=r"called before optimizer.step\(\).*in this order"):
        sparsifier.step()


def test_gradients_zeroed_too_early_are_noted() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, RigL(density=0.5, interval=1), total_steps=10)
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    update = sparsifier.step()
    assert update is not None
    assert "zero_grad() called before" in update.note


def test_the_state_is_a_copy_and_names_what_it_lacks() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, SET(density=0.5, interval=1), total_steps=10)
    state = sparsifier.state_dict()
    explored = int(state["explored"]["weight"].sum())
    for _ in range(5):
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        sparsifier.step()
    assert int(state["explored"]["weight"].sum()) == explored
    with pytest.raises(UsageError, match="no masks"):
        sparsifier.load_state_dict({key: value for key, value in state.items() if key != "masks"})
