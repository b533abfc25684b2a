"""The verdict on a ratio: faster, slower, or no difference that could be measured, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporters.bench.statistics import Ratio

_TOO_WIDE = 0.10
"""From an interval that reaches further from 1 than this, no equality is concluded."""

Outcome = Literal["faster", "slower", "no difference", "not compared"]


@dataclass(frozen=True)
class Facts:
    """Properties of a model and its control that could explain a ratio.

    Attributes:
        provider: where both ran, as text.
        itself: whether both are the same file.
        flops: of the model over those of its control; None when they are not known.
        active: share of the model's weights that are not zero; None when it is not known.
        unfolded: nodes more than in the control that compute a constant in every run, such as decoders.
        two_of_four: whether weights have the pattern that sparse tensor cores take.
        sparse_kernels: whether the provider was allowed to use them.
        different: what else differs from the control, such as the program that ran it.
    """

    provider: str
    itself: bool = False
    flops: float | None = None
    active: float | None = None
    unfolded: int = 0
    two_of_four: bool = False
    sparse_kernels: bool = False
    different: str | None = None


def judge(found: Ratio | None, facts: Facts) -> tuple[Outcome, str]:
    """Return the outcome, and a sentence that begins with it; ``found`` is None if the two did not run together."""
    if found is None:
        return "not compared", "not compared: the control could not be measured at the same time"
    interval = f"{_times(found.value)} the control's time, {found.low:.3f} to {found.high:.3f}"
    if found.differs and found.value < 1:
        return "faster", f"faster: {interval}; {_why_faster(facts)}"
    if found.differs:
        return "slower", f"slower: {interval}; {_why_slower(facts)}"
    # Further from 1 than this, and it would have shown.
    reach = max(found.high - 1, 1 - found.low)
    if reach > _TOO_WIDE:
        return "no difference", (
            "no difference that could be measured, because the interval is too wide: a longer --time-limit or a "
            f"quieter machine would show differences of less than {_percent(reach)} too"
        )
    return (
        "no difference",
        f"no difference that could be measured, and one of {_percent(reach)} would have shown: {_why_equal(facts)}",
    )


def _why_equal(facts: Facts) -> str:
    if facts.different:
        return f"{facts.different}, which takes as long here"
    if facts.itself:
        return "it is the same file, so this is the noise of this machine"
    if facts.flops is not None and facts.flops < 0.995:
        return f"it has {_percent(facts.flops)} of the control's FLOPs, and they are not what takes the time here"
    if facts.sparse_kernels and facts.two_of_four:
        return "2:4 weights and kernels for them, which gained nothing here"
    if facts.sparse_kernels:
        return "no weight has the 2:4 pattern, so kernels for it have nothing to work with"
    if facts.active is not None and facts.active < 0.995:
        return (
            f"the same operations on weights of which {_percent(1 - facts.active)} are zero, and unstructured zeros "
            f"save no time in {facts.provider}"
        )
    return "the same operations"


def _why_faster(facts: Facts) -> str:
    if facts.different:
        return facts.different
    if facts.flops is not None and facts.flops < 0.995:
        return f"it has {_percent(facts.flops)} of the control's FLOPs"
    if facts.sparse_kernels and facts.two_of_four:
        return "2:4 weights, and kernels for them"
    return _unexplained(facts)


def _why_slower(facts: Facts) -> str:
    if facts.different:
        return facts.different
    if facts.unfolded:
        return f"{facts.unfolded} nodes that only compute constants, such as decoders of weights, run every time"
    if facts.flops is not None and facts.flops > 1.005:
        return f"it has {facts.flops:.2f} times the control's FLOPs"
    return _unexplained(facts)


def _unexplained(facts: Facts) -> str:
    if facts.itself:
        return "it is the same file, so the machine was not quiet enough for a reliable result"
    return "the files show no reason, so repeat it before you believe it"


def _times(value: float) -> str:
    return f"{value:.3f} of" if value < 1 else f"{value:.3f} times"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
