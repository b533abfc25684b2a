"""Durations: lengths of training that carry their unit, as recipes write them.

``"80ep"`` is 80 epochs, ``"0.5ep"`` half of one, ``"1000it"`` 1000 optimizer steps ("it" for iterations, the
papers' word). A length in epochs becomes steps only when the number of steps per epoch is known.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from granet.errors import UsageError, shortened

Unit = Literal["ep", "it"]

EXPECTED = 'a duration such as "80ep" or "1000it"'
"""What messages say was expected."""

# Bounded on purpose: nine digits outlast any training, and six decimals of an epoch are less than a step.
_LIMIT = 10**9
_DECIMALS = 6
_FORM = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,{_DECIMALS}}})?)(ep|it)")


@dataclass(frozen=True)
class Duration:
    """A length of training, exact: no rounding happens before it is turned into steps.

    Attributes:
        amount: from 0 to below 10^9; a whole number for "it", at most six decimals for "ep".
        unit: "ep" for epochs, "it" for optimizer steps.

    Raises:
        UsageError: an amount that cannot be written that way.
    """

    amount: Fraction
    unit: Unit

    def __post_init__(self) -> None:
        if not 0 <= self.amount < _LIMIT:
            raise UsageError("duration out of range", got=self.amount, expected=f"0 to below {_LIMIT}")
        if self.unit == "it" and self.amount.denominator != 1:
            raise UsageError("a fraction of an iteration", got=self.amount, expected='a whole number before "it"')
        if (self.amount * 10**_DECIMALS).denominator != 1:
            raise UsageError("too many decimals", got=self.amount, expected=f"at most {_DECIMALS}")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Parse a duration: digits, an optional fraction, and "ep" or "it", without spaces.

        Raises:
            UsageError: anything else; a number without its unit in particular.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            raise UsageError("not a duration", got=repr(shortened(text, 40)), expected=EXPECTED)
        amount, unit = form.groups()
        return cls(Fraction(amount), "ep" if unit == "ep" else "it")

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps, half rounded up; 0.5 epochs of 5 steps are 3 steps.

        Raises:
            UsageError: an epoch without steps.
        """
        if steps_per_epoch < 1:
            raise UsageError("an epoch has no steps", got=steps_per_epoch, expected="at least 1 step per epoch")
        return int(self.amount) if self.unit == "it" else math.floor(self.amount * steps_per_epoch + Fraction(1, 2))

    def stretched(self, factor: Fraction | int) -> Duration:
        """Return the same share of a training ``factor`` times as long, to six decimals; iterations stay."""
        if self.unit == "it":
            return self
        return Duration(Fraction(round(self.amount * factor * 10**_DECIMALS), 10**_DECIMALS), self.unit)

    def __str__(self) -> str:
        whole, rest = divmod(int(self.amount * 10**_DECIMALS), 10**_DECIMALS)
        decimals = f"{rest:0{_DECIMALS}d}".rstrip("0")
        return f"{whole}.{decimals}{self.unit}" if decimals else f"{whole}{self.unit}"
