"""Masks hold under every optimizer and every way of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from granet import Sparsifier
from granet.errors import UsageError
from granet.masks.mapping import active
from granet.methods import (
    GraNet,
    RigL,
)
from granet.methods.base import Method
from granet.methods.snapshot import Snapshot
from granet.recipe import Recipe
from granet.topology import TopologyUpdate
from granet.training.optimizer import build_optimizer
from tests.running import (
    DEVICES,
    METHODS,
    OPTIMIZERS,
    TOTAL,
    Make,
    Run,
    Scripted,
    every_method,
    every_optimizer,
    identical,
    loss_at,
    network,
)


@pytest.mark.parametrize("device", DEVICES)
@every_optimizer
def test_weights_and_state_are_masked_after_every_step(optimizer: Make, device: str) -> None:
    run = Run(GraNet(density=0.1, initial_density=0.5, interval=3), optimizer, device=device)
    for _ in range(10):
        run.step()
        for name, tensor, mask in run.masked_tensors():
            assert tensor.isfinite().all(), name
            assert not tensor[~mask].any(), name


def by_hand(method: Method, optimizer: Make, steps: int) -> dict[str, Any]:
    """The same run without the sparsifier: whole tensors are masked after every step."""
    run = Run(method, optimizer)
    masks, momenta = dict(run.sparsifier.masks), {}
    run.sparsifier.close()
    parameters = dict(run.model.named_parameters())
    decay = method.momentum_decay

    def mask_all(masks: dict[str, Tensor]) -> None:
        for name, mask in masks.items():
            state = run.optimizer.state.get(parameters[name], {}).values()
            for tensor in (parameters[name].data, *(v for v in state if isinstance(v, Tensor) and v.dim())):
                if tensor.shape == mask.shape:
                    tensor[~mask] = 0

    for step in range(1, steps + 1):
        run.optimizer.zero_grad()
        loss_at(run.model, step - 1).backward()
        gradients = {name: parameters[name].grad.clone() for name in masks}
        due = method.due(step, TOTAL)
        if not (due and method.replaces_step):
            run.optimizer.step()
            mask_all(masks)
        if decay is not None:
            momenta = {name: decay * momenta.get(name, 0.0) + gradients[name] for name in masks}
        if due:
            weights = {name: parameters[name].detach() for name in masks}
            update = method.update(
                Snapshot(
                    step=step,
                    total_steps=TOTAL,
                    weights=weights,
                    gradients=gradients,
                    momenta=momenta,
                    masks=masks,
                    seed=0,
                )
            )
            masks = dict(update.masks)
            mask_all(update.survivors)
    return {"masks": masks, "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}


def assert_same_as_by_hand(method: Method, optimizer: Make) -> None:
    run = Run(method, optimizer)
    run.steps(TOTAL)
    ours = {"masks": run.sparsifier.masks, "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
    assert identical(ours, by_hand(method, optimizer, TOTAL))


@every_optimizer
def test_masking_gradients_is_masking_weights_and_state(optimizer: Make) -> None:
    assert_same_as_by_hand(GraNet(density=0.1, initial_density=0.5, interval=3), optimizer)


@every_method
def test_every_method_is_what_it_says_step_by_step(method: Method) -> None:
    assert_same_as_by_hand(method, OPTIMIZERS["sgd-nesterov"])


def test_memory_layout_does_not_matter_to_masks() -> None:
    plain, last = Run(METHODS["granet"]), Run(METHODS["granet"], model=network().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    for run in (plain, last):
        run.steps(1)
    last.load(plain.state())
    last.backward()
    plain.backward()
    for a, b in zip(plain.model.parameters(), last.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        b.grad.copy_(a.grad)
    for run in (plain, last):
        run.optimizer.step()
        assert run.sparsifier.step() is not None
    assert identical(plain.sparsifier.masks, last.sparsifier.masks)
    assert identical(dict(plain.model.named_parameters()), dict(last.model.named_parameters()))


@pytest.mark.parametrize("optimizer", ["sgd-nesterov", "sgd-fused", "adam", "adam-fused", "adamw-foreach", "rmsprop"])
def test_a_rigl_update_replaces_the_optimizer_step(optimizer: str) -> None:
    run = Run(RigL(density=0.3, interval=3), OPTIMIZERS[optimizer])
    run.steps(2)
    before = run.state()
    run.backward()
    gradients = [parameter.grad for parameter in run.model.parameters()]
    values = [gradient.clone() for gradient in gradients if gradient is not None]
    run.optimizer.step()
    after = run.state()
    assert identical(before["Sequential"].keys(), after["Sequential"].keys())
    parameters = dict(run.model.named_parameters())
    assert identical({n: before["Sequential"][n] for n in parameters}, {n: after["Sequential"][n] for n in parameters})
    assert identical(before[type(run.optimizer).__name__], after[type(run.optimizer).__name__])
    assert all(p.grad is gradient for p, gradient in zip(run.model.parameters(), gradients, strict=True))
    assert identical(values, gradients)
    update = run.sparsifier.step()
    assert update is not None
    assert any(counts["grown"] for counts in update.counts.values())
    run.step()
    assert not identical(before[type(run.optimizer).__name__], run.state()[type(run.optimizer).__name__])


def test_where_rigl_has_nothing_left_to_swap_the_optimizer_has_its_step() -> None:
    run = Run(RigL(density=0.3, interval=2, stop=4))
    updates = run.steps(3)
    before = run.model.get_parameter("fc1.weight").detach().clone()
    assert run.step() is None
    assert not torch.equal(run.model.get_parameter("fc1.weight"), before)
    assert [update.step for update in updates] == [2]


# Ways of training


def test_parameter_groups_keep_their_settings() -> None:
    model = network()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.1, "momentum": 0.9}, {"params": others, "lr": 0.0}], lr=0.1
    )
    biases = [parameter.detach().clone() for parameter in others]
    sparsifier = Sparsifier(model, optimizer, METHODS["granet"], total_steps=TOTAL)
    for step in range(6):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
        sparsifier.step()
    assert identical([parameter.detach() for parameter in others], biases)
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in sparsifier.masks.items())


def test_gradient_accumulation_counts_optimizer_steps_and_grows_by_the_sum() -> None:
    seen: list[Tensor] = []

    def look(at: Snapshot) -> TopologyUpdate:
        seen.append(at.gradients["fc1.weight"].clone())
        return at.outcome(at.masks, at.masks)

    run = Run(Scripted(look))
    for outer in range(2):
        run.optimizer.zero_grad()
        parts = []
        for inner in range(3):
            loss = loss_at(run.model, 3 * outer + inner)
            parts.append(torch.autograd.grad(loss, run.model.get_parameter("fc1.weight"), retain_graph=True)[0])
            loss.backward()
        run.optimizer.step()
        run.sparsifier.step()
    assert run.sparsifier.steps == 2
    assert torch.allclose(seen[0], sum(parts), atol=1e-6)


@every_method
def test_autocast_to_bfloat16(method: Method) -> None:
    run = Run(method)
    for step in range(6):
        run.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_at(run.model, step)
        loss.backward()
        run.optimizer.step()
        run.sparsifier.step()
    for name, tensor, mask in run.masked_tensors():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert not tensor[~mask].any(), name


def test_a_model_in_bfloat16() -> None:
    run = Run(METHODS["granet"], model=network().bfloat16())
    for step in range(4):
        run.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss_at(run.model, step).backward()
        run.optimizer.step()
        run.sparsifier.step()
    assert all(not tensor[~mask].any() for _, tensor, mask in run.masked_tensors())
    assert run.sparsifier.density == pytest.approx(GraNet(density=0.1).scheduled_density(4, TOTAL), abs=1e-3)


def scaled_steps(run: Run, scaler: torch.amp.GradScaler, steps: Iterable[int]) -> list[TopologyUpdate | None]:
    updates = []
    for step in steps:
        run.optimizer.zero_grad()
        scaler.scale(loss_at(run.model, step)).backward()
        scaler.step(run.optimizer)
        scaler.update()
        updates.append(run.sparsifier.step())
    return updates


SCALED = [
    *((name, "sgd-fused") for name in METHODS),
    *((name, optimizer) for name in ("granet", "rigl", "snfs") for optimizer in ("sgd-nesterov", "adam", "adam-fused")),
]
scaled = pytest.mark.parametrize(("name", "optimizer"), SCALED, ids=["-".join(pair) for pair in SCALED])


@scaled
def test_a_gradient_scaler_changes_nothing(name: str, optimizer: str) -> None:
    plain, scaled = (Run(METHODS[name], OPTIMIZERS[optimizer]) for _ in range(2))
    plain.steps(7)
    scaled_steps(scaled, torch.amp.GradScaler("cpu", init_scale=1024.0), range(7))
    assert identical(plain.state(), scaled.state())


@scaled
def test_a_step_that_overflows_trains_nothing_and_swaps_nothing(name: str, optimizer: str) -> None:
    method = METHODS[name]
    run = Run(method, OPTIMIZERS[optimizer])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled_steps(run, scaler, range(5))
    before = run.state()
    overflowing = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    run.optimizer.zero_grad()
    overflowing.scale(1e6 * loss_at(run.model, 5)).backward()
    overflowing.step(run.optimizer)
    assert not all(parameter.grad.isfinite().all() for parameter in run.model.parameters())  # type: ignore[union-attr]
    update = run.sparsifier.step()
    after = run.state()
    assert run.sparsifier.steps == 6
    assert identical(before["Sparsifier"]["momenta"], after["Sparsifier"]["momenta"])
    if update is None or method.needs_gradients(6, TOTAL):
        density = (
            round(method.scheduled_density(6, TOTAL) * 572) / 572 if hasattr(method, "scheduled_density") else None
        )
        assert density is None or update is None or update.density == density
        assert update is None or all(c["grown"] == c["dropped"] == 0 for c in update.counts.values())
        assert update is None or "not finite" in update.note
    for layer, kept in (run.sparsifier.masks if update is None else update.survivors).items():
        assert torch.equal(after["Sequential"][layer], before["Sequential"][layer] * kept)
    scaled_steps(run, scaler, range(6, TOTAL))
    assert all(tensor.isfinite().all() for _, tensor, _ in run.masked_tensors())
    assert run.sparsifier.density == pytest.approx(method.final_density(), abs=0.5 / 572)


def test_an_infinite_gradient_of_an_inactive_weight_does_no_harm_at_an_update() -> None:
    run = Run(Scripted(lambda at: at.outcome(at.masks, at.masks)))
    state = run.state()
    state["Sparsifier"]["masks"]["fc1.weight"][0] = False
    run.load(state)
    run.step()
    run.backward()
    run.model.get_parameter("fc1.weight").grad[0] = torch.inf  # type: ignore[index]
    run.optimizer.step()
    run.sparsifier.step()
    for name, tensor, mask in run.masked_tensors():
        assert not tensor[~mask].any(), name
        assert tensor.isfinite().all(), name


# Optimizers that are not element by element


def test_muon() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02)
    sparsifier = Sparsifier(model, optimizer, METHODS["granet"], total_steps=TOTAL)
    for _ in range(TOTAL):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        for name, mask in sparsifier.masks.items():
            assert not model.get_parameter(name)[~mask].any()
        sparsifier.step()
        for name, mask in sparsifier.masks.items():
            assert not model.get_parameter(name)[~mask].any()
            assert not optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask].any()
    assert sum(active(sparsifier.masks).values()) == round(0.1 * 192)


@pytest.mark.parametrize("name", ["granet", "snfs", "static"])
def test_lbfgs_with_a_closure(name: str) -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    sparsifier = Sparsifier(model, optimizer, METHODS[name], total_steps=TOTAL)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, 0)
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(TOTAL):
        optimizer.step(closure)
        for masked, mask in sparsifier.masks.items():
            assert not model.get_parameter(masked)[~mask].any()
        sparsifier.step()
    assert name == "granet" or closure().item() < before


def test_an_elementwise_optimizer_with_a_closure() -> None:
    run = Run(METHODS["granet"], OPTIMIZERS["adam"])
    plain = Run(METHODS["granet"], OPTIMIZERS["adam"])

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = loss_at(run.model, run.sparsifier.steps)
        loss.backward()
        return loss

    for _ in range(7):
        run.optimizer.step(closure)
        run.sparsifier.step()
    plain.steps(7)
    assert identical(run.state(), plain.state())


def test_rigl_cannot_replace_a_step_with_a_closure() -> None:
    run = Run(RigL(density=0.3, interval=2))
    run.step()
    run.backward()
    for _ in range(2):
        with pytest.raises(UsageError, match="SGD: RigL replaces optimizer steps, which cannot be done with a closure"):
            run.optimizer.step(lambda: 0.0)  # type: ignore[arg-type,return-value]
    run.optimizer.step()
    assert run.sparsifier.step() is not None


def test_momentum_in_fp16_is_not_left_unwritten() -> None:
    """Where a scaler skips the very first step, fused SGD makes momentum and does not write it."""
    recipe = Recipe.load("quickstart").override({"training.precision": "fp16"})
    model = nn.Linear(300, 300)
    optimizer = build_optimizer(recipe, model, torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.full((1, 300), torch.inf)).sum()).backward()
    before = model.weight.detach().clone()
    scaler.step(optimizer)
    assert torch.equal(model.weight, before)
    for parameter in model.parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        assert momentum is None or not momentum.any()
