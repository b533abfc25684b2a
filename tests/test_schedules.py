"""Schedules are pure functions of the step with exact boundary values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granet.errors import UsageError
from granet.schedules import constant, cosine, cubic_density, linear

EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)
DECAYS = [cosine, linear]
shares = st.floats(0, 1)


def test_cubic_by_hand() -> None:
    # From 1 to 0.2 over ten steps: 0.2 + 0.8 * (1 - t/10)^3
    values = [cubic_density(step, 0, 10, 1.0, 0.2) for step in (0, 5, 8, 10)]
    assert values == pytest.approx([1.0, 0.2 + 0.8 / 8, 0.2 + 0.8 * 0.008, 0.2])


def test_cubic_is_exact_at_its_ends_and_beyond() -> None:
    for step in (-5, 0, 99, 100):
        assert cubic_density(step, 100, 200, 0.7, 0.1) == 0.7
    for step in (200, 201, 10**9):
        assert cubic_density(step, 100, 200, 0.7, 0.1) == 0.1


def test_cubic_over_no_steps_changes_at_its_end() -> None:
    assert cubic_density(99, 100, 100, 1.0, 0.1) == 1.0
    assert cubic_density(100, 100, 100, 1.0, 0.1) == 0.1


def test_cubic_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(UsageError, match="ends before it starts; got 5 to 4"):
        cubic_density(0, 5, 4, 1.0, 0.1)


@EXAMPLES
@given(start=st.integers(0, 1000), length=st.integers(1, 1000), a=st.floats(0.001, 1), b=st.floats(0.001, 1))
def test_cubic_never_rises_and_stays_within_its_ends(start: int, length: int, a: float, b: float) -> None:
    initial, final = max(a, b), min(a, b)
    values = [cubic_density(step, start, start + length, initial, final) for step in range(start, start + length + 1)]
    assert values[0] == initial
    assert values[-1] == final
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))


def test_cosine_by_hand() -> None:
    values = [cosine(step, 100, 0.5, 0.1) for step in (0, 25, 50, 75, 100)]
    assert values == pytest.approx([0.5, 0.3 + 0.2 * math.sqrt(0.5), 0.3, 0.3 - 0.2 * math.sqrt(0.5), 0.1])


def test_linear_by_hand() -> None:
    assert [linear(step, 100, 0.5, 0.1) for step in (0, 25, 50, 100)] == pytest.approx([0.5, 0.4, 0.3, 0.1])


@pytest.mark.parametrize("decay", DECAYS)
@EXAMPLES
@given(total=st.integers(1, 10_000), initial=shares, final=shares)
def test_decays_are_exact_at_their_ends_and_beyond(
    decay: Callable[..., float], total: int, initial: float, final: float
) -> None:
    assert decay(0, total, initial, final) == decay(-3, total, initial, final) == initial
    assert decay(total, total, initial, final) == decay(total + 7, total, initial, final) == final


@pytest.mark.parametrize("decay", DECAYS)
def test_decays_end_at_zero_unless_told_otherwise(decay: Callable[..., float]) -> None:
    assert decay(10, 10, 0.3) == 0.0


@pytest.mark.parametrize("decay", DECAYS)
def test_decays_fall_at_every_step(decay: Callable[..., float]) -> None:
    values = [decay(step, 50, 0.5, 0.005) for step in range(51)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_constant_is_constant() -> None:
    assert {constant(step, 10, 0.3) for step in (-1, 0, 5, 10, 11)} == {0.3}


@pytest.mark.parametrize("schedule", [*DECAYS, constant])
@pytest.mark.parametrize("total", [0, -1])
def test_a_schedule_over_no_steps_is_refused(schedule: Callable[..., float], total: int) -> None:
    with pytest.raises(UsageError, match=f"over no steps; got {total}"):
        schedule(0, total, 0.5)
