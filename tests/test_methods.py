"""Every method: when it updates, how far, and that its densities are the scheduled ones to the weight."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from granet.errors import UnknownNameError, UsageError
from granet.masks import mapping as masking
from granet.masks.mapping import active
from granet.masks.packed import PackedMasks
from granet.methods import (
    GMP,
    METHODS,
    SET,
    SNFS,
    Dense,
    GMPUniform,
    GraNet,
    GraNetUniform,
    RigL,
    RigLITOP,
    Static,
)
from granet.methods.base import Method
from granet.methods.pruning import Pruning
from granet.methods.settings import settings_of
from granet.methods.snapshot import Snapshot
from granet.methods.swapping import Swapping
from granet.topology import TopologyUpdate

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = {"conv1": (4, 3, 3, 3), "conv2": (8, 4, 3, 3), "fc1": (12, 8), "fc2": (5, 12)}  # 108, 288, 96, 60: 552
TOTAL = 60


def snapshot(step: int, masks: dict[str, Tensor], total: int = TOTAL, seed: int = 0, scale: float = 1.0) -> Snapshot:
    """Random weights, zero where inactive, with random gradients and momenta; a function of step and seed."""
    source = torch.Generator().manual_seed(1000 * seed + step)
    random = lambda: {n: torch.randn(m.shape, generator=source) * scale for n, m in masks.items()}  # noqa: E731
    weights = {name: weight * masks[name] for name, weight in random().items()}
    return Snapshot(
        step=step, total_steps=total, weights=weights, gradients=random(), momenta=random(), masks=masks, seed=seed
    )


def trajectory(method: Method, total: int = TOTAL, seed: int = 0, scale: float = 1.0) -> list[TopologyUpdate]:
    """All updates of a run with random weights and gradients."""
    method.check(SHAPES, total)
    masks = masking.random(SHAPES, method.budgets(SHAPES), seed=seed)
    updates = []
    for step in range(1, total + 1):
        if method.due(step, total):
            updates.append(method.update(snapshot(step, masks, total, seed, scale)))
            masks = dict(updates[-1].masks)
    return updates


def same(ours: Any, theirs: Any) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


CHANGING: dict[str, Method] = {
    "granet": GraNet(density=0.1, interval=5, start=10, end=40),
    "granet-sparse": GraNet(density=0.1, initial_density=0.5, interval=5, end=40),
    "granet-momentum": GraNet(density=0.1, interval=5, growth="momentum", decay="linear"),
    "granet-random": GraNet(density=0.1, interval=5, growth="random", decay="constant"),
    "granet-er": GraNet(density=0.1, initial_density=0.4, allocation="er", interval=7),
    "granet-uniform": GraNetUniform(density=0.1, initial_density=0.6, interval=5, end=41),
    "rigl": RigL(density=0.2, interval=5),
    "rigl-itop": RigLITOP(density=0.2, interval=5, allocation="uniform"),
    "rigl-itop-momentum": RigLITOP(density=0.2, interval=5, growth="momentum"),
    "set": SET(density=0.2, interval=5),
    "snfs": SNFS(density=0.2, interval=5),
    "gmp": GMP(density=0.1, start=10, end=40, interval=7),
    "gmp-uniform": GMPUniform(density=0.3, interval=7),
}
every_changing_method = pytest.mark.parametrize("method", CHANGING.values(), ids=CHANGING)


def test_the_catalog_has_ten_methods_each_with_a_one_line_summary() -> None:
    assert sorted(METHODS) == list(METHODS)
    assert set(METHODS) == {
        *("granet", "granet-uniform", "rigl", "rigl-itop", "set", "snfs"),
        *("gmp", "gmp-uniform", "static", "dense"),
    }
    for method in METHODS.values():
        assert method.__doc__
        assert method.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_setting_of_every_method_is_explained_and_can_be_written_in_a_recipe(method: type[Method]) -> None:
    for setting in settings_of(method).values():
        assert setting.description
        assert not setting.description.endswith(".")
        assert setting.kind is not None


def test_every_registered_method_is_tested_here() -> None:
    assert {type(method) for method in CHANGING.values()} | {Static, Dense} == set(METHODS.values())


def test_methods_are_values() -> None:
    assert GraNet(density=0.1) == GraNet(density=0.1, interval=1000)
    assert replace(GraNet(density=0.1), density=0.2).density == 0.2
    with pytest.raises(FrozenInstanceError):
        GraNet(density=0.1).density = 0.2  # type: ignore[misc]
    with pytest.raises(TypeError):
        GraNet(0.1)  # type: ignore[call-arg]


# Density, to the weight


@every_changing_method
@EXAMPLES
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 1e-45, 1e-20, 1.0, 1e20, 1e37]))
def test_every_update_has_the_scheduled_density_and_empties_no_layer(method: Method, seed: int, scale: float) -> None:
    updates = trajectory(method, seed=seed, scale=scale)
    assert updates
    for update in updates:
        scheduled = method.final_density()
        if isinstance(method, Pruning):
            scheduled = method.scheduled_density(update.step, TOTAL)
        assert sum(active(update.masks).values()) == sum(active(update.pruned).values()) == round(scheduled * 552)
        assert min(active(update.masks).values()) >= 1
        assert not any((update.pruned[name] & ~update.before[name]).any() for name in SHAPES)
    assert sum(active(updates[-1].masks).values()) == round(method.final_density() * 552)


@EXAMPLES
@given(
    density=st.floats(0.02, 0.5),
    more=st.floats(0, 0.5),
    start=st.integers(0, 20),
    length=st.integers(1, 39),
    interval=st.integers(1, 30),
    uniform=st.booleans(),
)
def test_granet_meets_its_target_whatever_the_window(
    density: float, more: float, start: int, length: int, interval: int, uniform: bool
) -> None:
    kind = GraNetUniform if uniform else GraNet
    end = start + length
    method = kind(density=density, initial_density=density + more, start=start, end=end, interval=interval)
    swaps = range(interval, TOTAL, interval)
    if not any(step > start for step in swaps if step <= end) or not any(step >= start for step in swaps):
        with pytest.raises(UsageError, match="interval: "):
            method.check(SHAPES, TOTAL)
        return
    for update in trajectory(method):
        assert sum(active(update.masks).values()) == round(method.scheduled_density(update.step, TOTAL) * 552)
        if update.step >= end:
            assert sum(active(update.masks).values()) == round(density * 552)


@every_changing_method
def test_a_second_run_is_the_same(method: Method) -> None:
    for once, again in zip(trajectory(method), trajectory(method), strict=True):
        assert same(once.masks, again.masks)


@every_changing_method
def test_swaps_that_are_local_keep_the_counts_of_each_layer(method: Method) -> None:
    if not isinstance(method, SNFS):
        assert all(active(update.masks) == active(update.pruned) for update in trajectory(method))


def test_final_densities() -> None:
    assert Dense().final_density() == 1.0
    assert Static(density=0.3).final_density() == RigL(density=0.3).final_density() == 0.3
    assert GMP(density=0.3).final_density() == GraNet(density=0.3).final_density() == 0.3


def test_a_method_has_reached_its_final_density_from_its_end_on() -> None:
    assert [GMP(density=0.1, end=40).reached_final_density(step, TOTAL) for step in (0, 39, 40, 41)] == [
        False,
        False,
        True,
        True,
    ]
    assert [GraNet(density=0.1).reached_final_density(step, TOTAL) for step in (29, 30)] == [False, True]
    assert Dense().reached_final_density(0, TOTAL)
    assert RigL(density=0.1).reached_final_density(0, TOTAL)


# Where they start


def test_budgets_at_the_start() -> None:
    full = {"conv1": 108, "conv2": 288, "fc1": 96, "fc2": 60}
    for method in (Dense(), GMP(density=0.1), GMPUniform(density=0.3), GraNet(density=0.1), GraNetUniform(density=0.1)):
        assert method.budgets(SHAPES) == full
    uniform = {"conv1": 54, "conv2": 144, "fc1": 48, "fc2": 30}
    assert GraNetUniform(density=0.1, initial_density=0.5).budgets(SHAPES) == uniform
    assert Static(density=0.5, allocation="uniform").budgets(SHAPES) == uniform
    erk = Static(density=0.5).budgets(SHAPES)
    assert GraNet(density=0.1, initial_density=0.5).budgets(SHAPES) == RigL(density=0.5).budgets(SHAPES) == erk
    assert sum(erk.values()) == 276
    er = GraNet(density=0.1, initial_density=0.5, allocation="er").budgets(SHAPES)
    assert sum(er.values()) == 276
    assert er != erk


# When


def steps(method: Method, what: str, total: int = TOTAL) -> list[int]:
    return [step for step in range(total + 2) if getattr(method, what)(step, total)]


def test_pruning_happens_at_multiples_of_the_interval_and_at_the_end_of_the_window() -> None:
    assert steps(GMP(density=0.1, start=10, end=33, interval=10), "prunes") == [20, 30, 33]
    assert steps(GMP(density=0.1, interval=10), "prunes") == [10, 20, 30]
    assert steps(GMP(density=0.1, start=5, end=60, interval=25), "prunes") == [25, 50, 60]


def test_granet_swaps_from_the_start_of_its_window_to_the_last_step_but_one() -> None:
    method = GraNet(density=0.1, start=10, end=33, interval=10)
    assert steps(method, "swaps") == [10, 20, 30, 40, 50]
    assert steps(method, "due") == [10, 20, 30, 33, 40, 50]
    assert steps(method, "needs_gradients") == [10, 20, 30, 40, 50]
    assert steps(replace(method, growth="random"), "needs_gradients") == []


def test_rigl_stops_after_three_quarters() -> None:
    assert steps(RigL(density=0.1, interval=10), "due") == [10, 20, 30, 40]
    assert steps(RigL(density=0.1, interval=15), "due") == [15, 30], (
        "at 45 the fraction is 0: the optimizer has the step"
    )
    assert steps(RigL(density=0.1, interval=15, final_drop_fraction=0.1), "due") == [15, 30, 45]
    assert steps(RigL(density=0.1, interval=15, decay="constant"), "due") == [15, 30, 45]
    assert steps(RigL(density=0.1, interval=10, stop=25), "due") == [10, 20]
    assert steps(RigL(density=0.1, interval=10, stop=60), "due") == [10, 20, 30, 40, 50]
    assert RigL.replaces_step
    assert not any(METHODS[name].replaces_step for name in METHODS if name != "rigl")


def test_exploration_goes_on_to_the_last_step_but_one() -> None:
    assert steps(RigLITOP(density=0.1, interval=20), "due") == [20, 40]
    assert steps(SET(density=0.1, interval=59), "due") == [59]
    assert steps(SNFS(density=0.1, interval=30), "due") == [30]


def test_dense_and_static_never_change() -> None:
    assert steps(Dense(), "due") == steps(Static(density=0.1), "due") == []


def test_gradients_are_needed_only_where_growth_ranks_by_them() -> None:
    for method, needed in (
        (RigL(density=0.1, interval=10), True),
        (RigLITOP(density=0.1, interval=10), True),
        (RigLITOP(density=0.1, interval=10, growth="momentum"), False),
        (SET(density=0.1, interval=10), False),
        (SNFS(density=0.1, interval=10), False),
        (GMP(density=0.1, interval=10), False),
    ):
        assert bool(steps(method, "needs_gradients")) is needed
        assert not needed or steps(method, "needs_gradients") == steps(method, "due")


def test_running_sums_of_gradients_are_kept_only_where_growth_ranks_by_them() -> None:
    assert SNFS(density=0.1, momentum=0.7).momentum_decay == 0.7
    assert RigLITOP(density=0.1, growth="momentum").momentum_decay == 0.9
    assert GraNet(density=0.1, growth="momentum").momentum_decay == 0.9
    for method in (GraNet(density=0.1), RigL(density=0.1), SET(density=0.1), GMP(density=0.1), Dense()):
        assert method.momentum_decay is None


# How far


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (GraNet(density=0.1), [0.5, 0.2525, 0.005]),
        (GraNet(density=0.1, decay="linear", final_drop_fraction=0.1), [0.5, 0.3, 0.1]),
        (GraNet(density=0.1, decay="constant"), [0.5, 0.5, 0.5]),
        (GraNet(density=0.1, drop_fraction=0.001), [0.001, 0.001, 0.001]),
        (RigLITOP(density=0.1), [0.5, 0.2525, 0.005]),
        (RigL(density=0.1, stop=60), [0.3, 0.15, 0.0]),
        (RigL(density=0.1, stop=30), [0.3, 0.0, 0.0]),
        (SET(density=0.1), [0.3, 0.3, 0.3]),
        (SNFS(density=0.1), [0.5, 0.2525, 0.005]),
    ],
)
def test_drop_fractions_at_start_middle_and_end(method: Swapping, expected: list[float]) -> None:
    assert [method.fraction(step, TOTAL) for step in (0, 30, 60)] == pytest.approx(expected)


def test_shares_of_a_layer_are_rounded_up_but_by_rigl_down() -> None:
    masks = {"a": torch.arange(20) < 7, "b": torch.arange(20) < 1, "full": torch.ones(5, dtype=torch.bool)}
    at = snapshot(0, masks)
    assert GraNet(density=0.1).swap_counts(masks, at) == {"a": 4, "b": 1, "full": 0}
    assert RigL(density=0.1).swap_counts(masks, at) == {"a": 2, "b": 0, "full": 0}


def test_granet_is_prune_then_swap() -> None:
    method = GraNet(density=0.25, start=0, end=2, interval=1, drop_fraction=0.5, decay="constant")
    weights = torch.tensor([8.0, -7, 6, 5, -4, 3, 2, 1])
    gradients = torch.tensor([9.0, 9, 9, 0, 0, 0, -2, 1])
    at = Snapshot(
        step=2,
        total_steps=10,
        weights={"a": weights},
        gradients={"a": gradients},
        momenta={},
        masks={"a": torch.ones(8, dtype=torch.bool)},
        seed=0,
    )
    update = method.update(at)
    # Keep 8 and -7; drop one of the two, -7, and grow the largest gradient among all but the first: its own.
    assert update.pruned["a"].tolist() == [True, True] + [False] * 6
    assert update.masks["a"].tolist() == [True, True] + [False] * 6
    elsewhere = method.update(replace(at, gradients={"a": gradients * torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1])}))
    assert elsewhere.masks["a"].tolist() == [True] + [False] * 5 + [True, False]
    assert elsewhere.survivors["a"].tolist() == [True] + [False] * 7


@every_changing_method
def test_packed_masks_lead_to_the_same_update(method: Method) -> None:
    masks = masking.random(SHAPES, method.budgets(SHAPES), seed=0)
    step = next(step for step in range(1, TOTAL) if method.due(step, TOTAL))
    at = snapshot(step, masks)
    plain, packed = method.update(at), method.update(replace(at, masks=PackedMasks.of(masks)))
    assert isinstance(packed.masks, PackedMasks)
    assert packed.counts == plain.counts
    assert packed.masks == plain.masks
    assert packed.survivors == plain.survivors


def test_random_growth_is_keyed_by_seed_step_and_layer() -> None:
    method = SET(density=0.5, interval=5)
    masks = masking.random({"a": (40, 10), "b": (40, 10)}, {"a": 200, "b": 200}, seed=0)
    grown = lambda **changes: method.update(replace(snapshot(5, masks), **changes)).masks  # noqa: E731
    assert same(grown(), grown())
    assert not same(grown(), grown(seed=1))
    assert not same(grown(), grown(step=10))
    both = dict.fromkeys(masks, masks["a"])
    weights = {name: snapshot(5, masks).weights["a"] for name in masks}
    twins = grown(masks=both, weights=weights)
    assert not torch.equal(twins["a"], twins["b"])


@pytest.mark.parametrize("growth", ["gradient", "momentum", "random"])
def test_growth_ranks_by_what_it_says(growth: str) -> None:
    method = RigLITOP(density=0.5, interval=5, growth=growth)
    masks = masking.random(SHAPES, method.budgets(SHAPES), seed=0)
    at = snapshot(5, masks)
    other = {name: torch.randn(mask.shape) for name, mask in masks.items()}
    assert same(method.update(at).masks, method.update(replace(at, gradients=other)).masks) == (growth != "gradient")
    assert same(method.update(at).masks, method.update(replace(at, momenta=other)).masks) == (growth != "momentum")


def test_swaps_wait_when_gradients_are_not_finite_but_pruning_does_not() -> None:
    method = GraNet(density=0.1, interval=5)
    masks = masking.random(SHAPES, method.budgets(SHAPES), seed=0)
    at = snapshot(5, masks)
    for bad in (math.nan, math.inf):
        at.gradients["fc1"][3, 3] = bad
        update = method.update(replace(at))
        assert "not finite" in update.note
        assert same(update.masks, update.pruned)
        assert sum(active(update.masks).values()) == round(method.scheduled_density(5, TOTAL) * 552)


# SNFS


def snfs_snapshot(momenta: dict[str, Tensor]) -> Snapshot:
    masks = {"a": torch.arange(20) < 8, "b": torch.arange(20) < 8}
    weights = {name: torch.arange(20.0, 0, -1) * mask for name, mask in masks.items()}
    return Snapshot(step=5, total_steps=10, weights=weights, gradients={}, momenta=momenta, masks=masks, seed=0)


def test_snfs_grows_more_where_the_active_momentum_is_larger() -> None:
    method = SNFS(density=0.4, interval=5, drop_fraction=0.5, decay="constant")
    momenta = {"a": torch.full((20,), 3.0), "b": torch.full((20,), 1.0)}
    momenta["b"][10:] = 1000.0  # not active, hence no matter
    assert active(method.update(snfs_snapshot(momenta)).masks) == {"a": 4 + 6, "b": 4 + 2}


def test_snfs_gives_the_rest_to_others_where_a_layer_is_full() -> None:
    method = SNFS(density=0.4, interval=5, drop_fraction=1.0, decay="constant")
    momenta = {"a": torch.full((20,), 1e6), "b": torch.full((20,), 1.0)}
    at = snfs_snapshot(momenta)
    assert active(method.update(at).masks) == {"a": 15, "b": 1}
    wide = replace(at, masks={"a": torch.arange(20) < 18, "b": at.masks["b"]})
    assert active(method.update(wide).masks) == {"a": 20, "b": 6}


@pytest.mark.parametrize("level", [0.0, 1e-45, 3e38])
def test_snfs_shares_equally_whatever_the_level(level: float) -> None:
    method = SNFS(density=0.4, interval=5, drop_fraction=0.5, decay="constant")
    momenta = {name: torch.full((20,), level) for name in "ab"}
    assert active(method.update(snfs_snapshot(momenta)).masks) == {"a": 8, "b": 8}


# GMP, each layer alike


def test_gmp_uniform_keeps_the_first_convolution_dense_and_the_classifier_denser() -> None:
    final = trajectory(GMPUniform(density=0.3, interval=5))[-1]
    kept = active(final.masks)
    assert kept["conv1"] == 108
    assert kept["fc2"] == 12  # 0.2 * 60: its share of what is left would be 8
    assert sum(kept.values()) == round(0.3 * 552)
    assert kept["conv2"] / 288 == pytest.approx(kept["fc1"] / 96, abs=0.02)
    open_first = active(trajectory(GMPUniform(density=0.1, interval=5, first_dense=False))[-1].masks)
    assert open_first["fc2"] == 12
    assert open_first["conv1"] / 108 == pytest.approx(open_first["conv2"] / 288, abs=0.02)


def test_gmp_uniform_refuses_a_density_below_its_privileged_layers() -> None:
    with pytest.raises(UsageError, match=r"alone pass the final density; got density 0\.1; expected at least 0\.221"):
        GMPUniform(density=0.1, interval=5).check(SHAPES, TOTAL)
    GMPUniform(density=0.222, interval=5).check(SHAPES, TOTAL)


# Misuse


@pytest.mark.parametrize("method", [GraNet, GraNetUniform, RigL, RigLITOP, SET, SNFS, GMP, GMPUniform, Static])
@pytest.mark.parametrize("density", [0, 0.0, -0.1, 1.1, math.nan, math.inf, "0.1", True, None])
def test_a_density_outside_its_range_is_refused(method: type[Method], density: object) -> None:
    with pytest.raises(UsageError, match=f"{method.__name__}: density out of range; got .*expected a number above 0"):
        method(density=density)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval out of range; got 0; expected a whole number of steps, 1 or more"),
        ({"interval": 2.5}, r"interval out of range; got 2\.5"),
        ({"interval": True}, "interval out of range; got True"),
        ({"start": -1}, "start out of range; got -1; expected a whole number of steps, 0 or more"),
        ({"end": 0}, "end out of range"),
        ({"drop_fraction": 0.0}, "drop_fraction out of range"),
        ({"drop_fraction": 1.5}, "drop_fraction out of range"),
        ({"final_drop_fraction": -0.1}, "final_drop_fraction out of range"),
        ({"initial_density": 0.0}, "initial_density out of range"),
        ({"initial_density": 0.05}, r"final density is above the initial one; got 0\.05 to 0\.1"),
        ({"drop_fraction": 0.1, "final_drop_fraction": 0.2}, r"the drop fraction cannot grow; got 0\.1 to 0\.2"),
        ({"decay": "constant", "final_drop_fraction": 0.1}, "a constant drop fraction has no final value"),
        ({"decay": "cosin"}, "unknown decay 'cosin'. Did you mean 'cosine'"),
        ({"growth": "magnitude"}, "unknown growth 'magnitude'"),
        ({"allocation": "erkk", "initial_density": 0.5}, "unknown allocation 'erkk'. Did you mean 'erk'"),
        ({"allocation": "erk"}, "a dense start has no use for an allocation"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"GraNet: .*{message}" if "unknown" not in message else message):
        GraNet(density=0.1, **settings)


def test_more_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"SNFS: momentum out of range; got 1.0; expected a number from 0 to below 1"):
        SNFS(density=0.1, momentum=1.0)
    with pytest.raises(UsageError, match="RigL: stop out of range"):
        RigL(density=0.1, stop=0)
    with pytest.raises(UsageError, match="GMPUniform: first_dense out of range; got 1; expected true or false"):
        GMPUniform(density=0.5, first_dense=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="GMPUniform: classifier_density out of range"):
        GMPUniform(density=0.5, classifier_density=2.0)
    with pytest.raises(UnknownNameError, match="SET: unknown decay 'cubic'"):
        SET(density=0.1, decay="cubic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("granet-uniform", "allocation"),
        ("rigl", "growth"),
        ("rigl", "end"),
        ("set", "growth"),
        ("snfs", "growth"),
        ("gmp", "drop_fraction"),
        ("gmp", "allocation"),
        ("static", "interval"),
        ("dense", "density"),
    ],
)
def test_a_setting_that_a_method_has_no_use_for_is_refused(name: str, setting: str) -> None:
    with pytest.raises(TypeError, match=setting):
        METHODS[name](**{"density": 0.1, setting: None})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (GMP(density=0.1, end=61), "the prune window ends past the end of training; got step 61 of 60"),
        (GMP(density=0.1, start=30, interval=5), "start: the prune window is empty; got 30 to 30"),
        (GMP(density=0.1, interval=31), "interval: no update falls into the prune window; got every 31 steps"),
        (GMP(density=0.1, start=21, end=39, interval=20), "no update falls into the prune window"),
        (GraNet(density=0.1, end=60, interval=60), "interval: the interval yields no update; got every 60 steps"),
        (RigLITOP(density=0.1, interval=60), "the interval yields no update.*up to step 59 of 60"),
        (SET(density=0.1), "the interval yields no update"),
        (RigL(density=0.1, interval=46), "the interval yields no update.*up to step 44 of 60"),
        (RigL(density=0.1, interval=45), "the interval yields no update.*up to step 44 of 60"),
        (RigL(density=0.1, interval=10, stop=61), "updates stop past the end of training; got step 61 of 60"),
        (RigL(density=0.1, interval=10, stop=9), "the interval yields no update"),
        (Static(density=0.005), "the density is too low"),
        (GMP(density=0.005, interval=5), "the density is too low"),
        (GraNet(density=0.005, interval=5), "the density is too low"),
    ],
)
def test_a_method_that_does_not_fit_the_run_is_refused(method: Method, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method.check(SHAPES, TOTAL)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [0, -3, True, 2.0, None])
def test_a_run_needs_steps(name: str, steps: Any) -> None:
    method = Dense() if name == "dense" else METHODS[name](density=0.5)
    expected = f"total_steps: a run needs steps; got {steps}; expected a whole number, 1 or more"
    with pytest.raises(UsageError, match=expected):
        method.check(SHAPES, steps)
