"""Durations: written form, steps, stretching."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet.errors import UsageError
from granet.recipe.durations import Duration

amounts = st.builds(Fraction, st.integers(0, 10**15 - 1), st.just(10**6))
durations = st.one_of(
    st.builds(Duration, amounts, st.just("ep")),
    st.builds(Duration, st.integers(0, 10**9 - 1).map(Fraction), st.just("it")),
)


@given(durations)
def test_what_is_written_is_read_back(duration):
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "steps_per_epoch", "steps"),
    [
        ("80ep", 351, 28080),
        ("1000it", 351, 1000),
        ("0ep", 351, 0),
        ("0.5ep", 5, 3),
        ("0.5ep", 4, 2),
        ("0.29ep", 50, 15),  # 14.5 exactly; in floating point it is less
        ("0.1ep", 4, 0),
    ],
)
def test_steps_are_rounded_half_up_and_exactly(text, steps_per_epoch, steps):
    assert Duration.parse(text).steps(steps_per_epoch) == steps


@pytest.mark.parametrize(
    "text",
    ["80", "80 ep", "ep", "-1ep", "+1it", "1e3it", "0.5it", ".5ep", "1.ep", "1.0000001ep", "1234567890it", "٣ep"],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError):
        Duration.parse(text)


def test_the_error_for_a_number_without_a_unit_names_the_units():
    with pytest.raises(
        UsageError, match=r"not a duration; got '80'; expected a duration such as \"80ep\" or \"1000it\""
    ):
        Duration.parse("80")


def test_trailing_zeros_do_not_matter():
    assert Duration.parse("0.50ep") == Duration.parse("0.5ep")
    assert str(Duration.parse("2.50ep")) == "2.5ep"
    assert str(Duration.parse("1.0it")) == "1it"


def test_stretching_scales_epochs_and_leaves_iterations():
    assert str(Duration.parse("80ep").stretched(Fraction(6, 160))) == "3ep"
    assert str(Duration.parse("1ep").stretched(Fraction(1, 3))) == "0.333333ep"
    assert str(Duration.parse("1000it").stretched(2)) == "1000it"


def test_an_epoch_has_steps():
    with pytest.raises(UsageError, match="at least 1"):
        Duration.parse("1ep").steps(0)


def test_amounts_that_cannot_be_written_are_refused():
    with pytest.raises(UsageError, match="decimals"):
        Duration(Fraction(1, 3), "ep")
    with pytest.raises(UsageError, match="out of range"):
        Duration.parse("999999999ep").stretched(2)
