"""Budgets add up exactly, and every layer gets at least one weight and at most all of its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granet.allocation import ALLOCATIONS, apportion, er, er_densities, erk, erk_densities, total_budget, uniform
from granet.errors import UsageError

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)
NETWORK = {"conv1": (8, 3, 3, 3), "conv2": (16, 8, 3, 3), "head": (10, 16)}  # 216, 1152 and 160 weights

shapes_of_networks = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 16), st.integers(1, 16), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    ),
    min_size=1,
    max_size=8,
).map(lambda shapes: {f"layer{number}": shape for number, shape in enumerate(shapes)})


def test_erk_by_hand() -> None:
    # Scores sum(shape) / prod(shape): 17/216, 30/1152, 26/160; times weights: 17, 30, 26. Budget 0.1 * 1528.
    scale = 152.8 / (17 + 30 + 26)
    expected = {"conv1": scale * 17 / 216, "conv2": scale * 30 / 1152, "head": scale * 26 / 160}
    assert erk_densities(NETWORK, 0.1) == pytest.approx(expected)
    # 35.58, 62.79 and 54.42 of 153: the two largest remainders are rounded up.
    assert erk(NETWORK, 0.1) == {"conv1": 36, "conv2": 63, "head": 54}


def test_er_by_hand() -> None:
    # (n_in + n_out) / (n_in n_out): 11/24, 24/128, 26/160; times weights: 99, 216, 26.
    scale = 152.8 / (99 + 216 + 26)
    expected = {"conv1": scale * 11 / 24, "conv2": scale * 24 / 128, "head": scale * 26 / 160}
    assert er_densities(NETWORK, 0.1) == pytest.approx(expected)
    assert er(NETWORK, 0.1) == {"conv1": 44, "conv2": 97, "head": 12}


def test_layers_that_would_pass_one_are_dense_and_the_rest_is_solved_again() -> None:
    densities = erk_densities(NETWORK, 0.5)
    assert densities["head"] == densities["conv1"] == 1.0
    assert densities["conv2"] == pytest.approx((764 - 216 - 160) / 1152)
    assert erk(NETWORK, 0.5) == {"conv1": 216, "conv2": 388, "head": 160}


def test_uniform_by_hand() -> None:
    # 21.6, 115.2 and 16 of 153
    assert uniform(NETWORK, 0.1) == {"conv1": 22, "conv2": 115, "head": 16}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_density_one_is_everything(allocation: str) -> None:
    assert ALLOCATIONS[allocation](NETWORK, 1.0) == {"conv1": 216, "conv2": 1152, "head": 160}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@EXAMPLES
@given(shapes=shapes_of_networks, density=st.floats(0.001, 1.0))
def test_budgets_add_up_exactly(allocation: str, shapes: dict[str, tuple[int, ...]], density: float) -> None:
    weights = {name: math.prod(shape) for name, shape in shapes.items()}
    total = round(density * sum(weights.values()))
    if total < len(shapes):
        with pytest.raises(UsageError, match="density is too low"):
            ALLOCATIONS[allocation](shapes, density)
        return
    budgets = ALLOCATIONS[allocation](shapes, density)
    assert list(budgets) == list(shapes)
    assert sum(budgets.values()) == total == total_budget(shapes, density)
    assert all(1 <= budgets[name] <= weights[name] for name in shapes)


@EXAMPLES
@given(shapes=shapes_of_networks, density=st.floats(0.2, 1.0))
def test_erk_densities_average_to_the_density(shapes: dict[str, tuple[int, ...]], density: float) -> None:
    weights = {name: math.prod(shape) for name, shape in shapes.items()}
    if round(density * sum(weights.values())) < len(shapes):
        return
    densities = erk_densities(shapes, density)
    assert all(0 < value <= 1 for value in densities.values())
    mean = sum(densities[name] * weights[name] for name in shapes) / sum(weights.values())
    assert mean == pytest.approx(density)


@EXAMPLES
@given(shapes=shapes_of_networks, density=st.floats(0.2, 1.0))
def test_uniform_is_within_one_weight_of_uniform(shapes: dict[str, tuple[int, ...]], density: float) -> None:
    weights = {name: math.prod(shape) for name, shape in shapes.items()}
    if min(weights.values()) * density < 1:  # the one weight that every layer keeps is more than its share
        return
    budgets = uniform(shapes, density)
    assert all(abs(budgets[name] - density * weights[name]) <= 1 for name in shapes)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(UsageError, match=r"density out of range; got .*; expected a number above 0 and at most 1"):
        erk(NETWORK, density)
    with pytest.raises(UsageError, match="density out of range"):
        erk_densities(NETWORK, density)


def test_a_density_that_would_empty_a_layer_is_refused_with_the_least_possible() -> None:
    with pytest.raises(
        UsageError, match=r"density 0\.001, 2 of 1528 weights for 3 layers; expected .* at least 0\.00196"
    ):
        erk(NETWORK, 0.001)
    assert erk(NETWORK, 0.00196) == {"conv1": 1, "conv2": 1, "head": 1}


def test_largest_remainders_win_and_the_earlier_of_equals() -> None:
    upper = dict.fromkeys("abcd", 10)
    assert apportion({"a": 2.2, "b": 2.6, "c": 2.7, "d": 2.5}, 10, upper=upper) == {"a": 2, "b": 3, "c": 3, "d": 2}
    assert apportion({"a": 2.5, "b": 2.5, "c": 2.5, "d": 2.5}, 10, upper=upper) == {"a": 3, "b": 3, "c": 2, "d": 2}


def test_where_bounds_bind_the_others_share_in_proportion() -> None:
    assert apportion({"a": 6.0, "b": 4.0, "c": 2.0}, 12, upper={"a": 3, "b": 9, "c": 9}) == {"a": 3, "b": 6, "c": 3}
    lower = {"a": 6, "b": 1, "c": 1}
    assert apportion({"a": 2.0, "b": 6.0, "c": 4.0}, 12, upper=dict.fromkeys("abc", 12), lower=lower) == {
        "a": 6,
        "b": 4,
        "c": 2,
    }


@EXAMPLES
@given(
    layers=st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 20), st.integers(0, 2000)),
        min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
)
def test_apportioning_meets_total_and_bounds(layers: list[tuple[float, int, int]], share: float) -> None:
    ideal = {str(number): value for number, (value, _, _) in enumerate(layers)}
    lower = {str(number): low for number, (_, low, _) in enumerate(layers)}
    upper = {str(number): low + room for number, (_, low, room) in enumerate(layers)}
    least, most = sum(lower.values()), sum(upper.values())
    total = least + round(share * (most - least))
    budgets = apportion(ideal, total, lower=lower, upper=upper)
    assert sum(budgets.values()) == total
    assert all(lower[name] <= budgets[name] <= upper[name] for name in budgets)


@pytest.mark.parametrize("tiny", [0.0, 1e-300, 1e-25])
def test_a_layer_with_hardly_any_share_takes_what_no_other_has_room_for(tiny: float) -> None:
    ideal, upper = {"a": 1.0, "b": tiny, "c": tiny}, {"a": 10, "b": 30_000, "c": 30_000}
    budgets = apportion(ideal, 40_010, upper=upper)
    assert budgets == {"a": 10, "b": 20_000, "c": 20_000}


@pytest.mark.parametrize("total", [2, 13])
def test_a_total_beyond_the_bounds_is_refused(total: int) -> None:
    with pytest.raises(UsageError, match=f"does not fit the layers; got {total}; expected 3 to 12"):
        apportion(dict.fromkeys("abc", 1.0), total, upper=dict.fromkeys("abc", 4))
