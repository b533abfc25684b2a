"""The ratio of two models' times and its interval: a bootstrap over processes and the blocks in each.

Times of one process resemble each other more than those of two: memory is laid out once, a machine is busy for a while.
So the unit of evidence is the process, not the run. Within a process a *block* holds runs of the candidate and of its
control taken in turns, and gives the logarithm of one ratio; what disturbs the machine for longer than a block disturbs
both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.99
"""A report holds many intervals, and one in twenty of them would be wrong at 0.95."""

_DRAWS = 2000


@dataclass(frozen=True)
class Ratio:
    """The time of a candidate over that of its control."""

    value: float
    low: float
    high: float
    level: float
    processes: int
    blocks: int

    @property
    def width(self) -> float:
        """Half the interval, as a share of the ratio: 0.01 when it says 1.50 give or take 0.015."""
        return math.sqrt(self.high / self.low) - 1.0 if self.low > 0 else math.inf

    @property
    def differs(self) -> bool:
        """Whether 1 is outside the interval."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Summary:
    """Times of single runs, in any unit."""

    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    deviation: float
    samples: int


def summarise(times: Sequence[float]) -> Summary:
    """Return quantiles, mean and standard deviation (of a sample; 0 for a single run) of at least one time."""
    values = np.asarray(times, dtype=float)
    p90, p95, p99 = np.quantile(values, [0.90, 0.95, 0.99])
    return Summary(
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        samples=len(values),
    )


def ratio(blocks: Sequence[Sequence[float]], *, level: float = LEVEL, seed: int = 0) -> Ratio:
    """Return the ratio of blocks, with a bootstrap interval over processes and over the blocks in each.

    The value is the median of the ratios in a process and the geometric mean over processes. The bootstrap draws
    processes with replacement, and blocks with replacement in each of those. Drawing from few underestimates how much
    they vary, by (n - 1) / n in the variance and by the heavier tails of Student's t against the normal: the interval
    is widened by both (Hesterberg 2015, 1411.5279, section 3.1.1). Blocks of one process are the units when there is
    only one.

    ``blocks`` has for each process the logarithms of its ratios; a process without any is left out. ``level`` is the
    probability with which the interval should hold the ratio. The same blocks always give the same interval.

    Raises:
        ValueError: there is no block at all.
    """
    measured = [np.asarray(process, dtype=float) for process in blocks if len(process)]
    if not measured:
        raise ValueError("no block was measured")
    count = sum(map(len, measured))
    value = float(np.mean([np.median(process) for process in measured]))
    units = len(measured) if len(measured) > 1 else count
    if units < 2:
        return Ratio(math.exp(value), 0.0, math.inf, level, len(measured), count)
    deviations = _resampled(measured, np.random.default_rng(seed)) - value
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2]) * _widening(units, level)
    # The bootstrap of a median can be lopsided by chance; the value always lies within.
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    return Ratio(math.exp(value), math.exp(value + low), math.exp(value + high), level, len(measured), count)


def block(candidate: Sequence[float], control: Sequence[float]) -> float:
    """Return the logarithm of the ratio of one block, from the times of its bursts, as many of each model.

    With the second half in the reverse order (A B B A), a drift that is even over the block cancels.
    """
    return float(np.mean(np.log(candidate)) - np.mean(np.log(control)))


def is_warmed_up(times: Sequence[float], *, tolerance: float = 0.05, window: int = 3) -> bool:
    """Return whether the last ``window`` times lie within ``tolerance`` of their median, as after warming up."""
    if len(times) < window:
        return False
    last = np.asarray(times[-window:], dtype=float)
    return bool(np.all(np.abs(last - np.median(last)) <= tolerance * np.median(last)))


def _resampled(measured: Sequence[NDArray[np.float64]], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the value of each bootstrap draw."""
    if len(measured) == 1:
        return np.asarray(np.median(generator.choice(measured[0], (_DRAWS, len(measured[0]))), axis=1))
    medians = np.stack([np.median(generator.choice(process, (_DRAWS, len(process))), axis=1) for process in measured])
    processes = generator.integers(len(measured), size=(_DRAWS, len(measured)))
    draws = generator.integers(_DRAWS, size=processes.shape)  # one drawn twice has its blocks drawn twice
    return np.asarray(medians[processes, draws].mean(axis=1))


@cache
def _widening(units: int, level: float) -> float:
    return _student(units - 1, level) / _student(10**6, level) * math.sqrt(units / (units - 1))


@cache
def _student(freedom: int, level: float) -> float:
    """Return the two-sided quantile of Student's t: sqrt(v) tan(a), for an angle with density cos(a) ** (v - 1)."""
    # The density is narrow for many degrees of freedom: the grid ends where it is zero.
    end = min(math.pi / 2, 40.0 / math.sqrt(freedom))
    angles = np.linspace(0.0, end, 400_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * math.tan(float(np.interp(level, mass / mass[-1], angles))))
