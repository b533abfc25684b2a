"""Statistics of a run's history: how many weights each update dropped and grew, exploration, and survival.

A weight is *lost* when it is active before an update and not after it, and *gained* when it is the other way round. A
weight that an update drops and grows again is neither: its mask is the same, though its value starts from zero again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from granet.history.changes import FlatMasks, entropy_bits
from granet.history.replay import Replay

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """One update, or the state before the first of them. Shares are from 0 to 1."""

    step: int
    epoch: float
    """Epochs done."""
    active: int
    """Active weights after it."""
    density: float
    """Of all maskable weights."""
    lost: int
    gained: int
    regrown: int
    """Gained weights that had been active before, at some time since the history begins."""
    churn: float
    """Share of the active weights that were gained in this update."""
    explored: float
    """Share of the maskable weights that have been active at some time by then: R_s of arXiv 2102.02887."""
    initial: float
    """Share of the weights that were active when the history begins which have been active at every update since."""
    layers: Mapping[str, int]
    """Active weights of each layer."""


@dataclass(frozen=True, kw_only=True)
class LayerHistory:
    """One layer over the whole history."""

    name: str
    parameters: int
    first_density: float
    density: float
    lost: int
    """Over all updates; a weight that is lost twice counts twice."""
    gained: int
    explored: float
    initial: float


@dataclass(frozen=True, kw_only=True)
class Survival:
    """A point of the survival curve of gained weights: the Kaplan-Meier estimator."""

    updates: int
    share: float
    """Share of gained weights still active after so many ``updates``, 0 to 1; weights that are active when the history
    ends are censored (Kaplan and Meier 1958)."""
    observed: int
    """Gained weights at risk: those that could be observed for so many updates."""


@dataclass(frozen=True, kw_only=True)
class HistoryReport:
    """The content of ``granet history``."""

    path: str
    recipe: str
    method: str
    model: str
    data: str
    seed: int
    finished: bool
    step: int
    total_steps: int
    steps_per_epoch: int
    begins_at: int
    parameters: int
    """Maskable weights."""
    bytes: int
    """Size of the file, up to the newest checkpoint."""
    entropy_bytes: float
    """Entropy of the changes when only their numbers in each layer are known."""
    before: UpdateReport
    """The state that the history begins with."""
    updates: tuple[UpdateReport, ...]
    layers: tuple[LayerHistory, ...]
    """In the order of the network."""
    survival: tuple[Survival, ...]
    notes: tuple[str, ...]

    @property
    def end(self) -> UpdateReport:
        """The state that it ends with."""
        return self.updates[-1] if self.updates else self.before

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def report_history(replay: Replay) -> HistoryReport:
    """Return the report on a history. Replays it once, with a few bytes of memory for each weight.

    Raises:
        CheckpointError: an update in the file is damaged.
    """
    tracker = _Tracker(replay)
    before = tracker.report(replay.begins_at, {}, {})
    updates = [tracker.follow(moment.step, moment.before, moment.after) for moment in replay.moments()]
    last = replay.last
    return HistoryReport(
        path=str(replay.folder),
        recipe=last.recipe.name,
        method=last.recipe.method.name,
        model=last.network.name,
        data=last.recipe.data.name,
        seed=last.recipe.seed,
        finished=replay.finished,
        step=last.step,
        total_steps=last.progress["total_steps"],
        steps_per_epoch=last.progress["steps_per_epoch"],
        begins_at=replay.begins_at,
        parameters=tracker.parameters,
        bytes=replay.log.size,
        entropy_bytes=tracker.entropy_bits / 8,
        before=before,
        updates=tuple(updates),
        layers=tracker.layers(before),
        survival=tracker.survival(),
        notes=replay.notes,
    )


class _Tracker:
    """The state of every weight during a replay.

    ``born`` is the number of the update since which a weight has been active: 0 for the beginning, -1 for inactive.
    """

    def __init__(self, replay: Replay) -> None:
        self.steps_per_epoch = replay.last.progress["steps_per_epoch"]
        self.explored = {name: mask.copy() for name, mask in replay.initial.items()}
        self.born = {name: np.where(mask, 0, -1).astype(np.int32) for name, mask in replay.initial.items()}
        self.active = {name: int(np.count_nonzero(mask)) for name, mask in replay.initial.items()}
        self.explored_counts, self.first, self.initial = dict(self.active), dict(self.active), dict(self.active)
        self.lost, self.gained = dict.fromkeys(self.active, 0), dict.fromkeys(self.active, 0)
        self.parameters = sum(mask.size for mask in replay.initial.values())
        self.number = 0
        self.entropy_bits = 0.0
        # Gained weights by the updates that they lasted.
        self.ended: Counts = np.zeros(len(replay.log.entries) + 1, np.int64)

    def follow(self, step: int, before: FlatMasks, after: FlatMasks) -> UpdateReport:
        """Return the report on the next update."""
        self.number += 1
        lost, gained, regrown = (dict.fromkeys(after, 0) for _ in range(3))
        for name, new in after.items():
            old = before[name]
            if new is old:
                continue
            gone, come = np.flatnonzero(old & ~new), np.flatnonzero(new & ~old)
            born = self.born[name][gone]
            self.initial[name] -= int(np.count_nonzero(born == 0))
            self.ended += np.bincount(self.number - born[born > 0], minlength=self.ended.size)
            self.born[name][gone], self.born[name][come] = -1, self.number
            regrown[name] = int(np.count_nonzero(self.explored[name][come]))
            self.explored[name][come] = True
            lost[name], gained[name] = gone.size, come.size
            active = self.active[name]
            self.entropy_bits += entropy_bits([(gone.size, active), (come.size, new.size - active)])
            self.active[name] += come.size - gone.size
            self.explored_counts[name] += come.size - regrown[name]
            self.lost[name] += gone.size
            self.gained[name] += come.size
        return self.report(step, lost, gained, sum(regrown.values()))

    def report(self, step: int, lost: Mapping[str, int], gained: Mapping[str, int], regrown: int = 0) -> UpdateReport:
        """Return the report on the present state, after an update with these counts by layer."""
        active, come = sum(self.active.values()), sum(gained.values())
        return UpdateReport(
            step=step,
            epoch=step / self.steps_per_epoch,
            active=active,
            density=active / self.parameters if self.parameters else 1.0,
            lost=sum(lost.values()),
            gained=come,
            regrown=regrown,
            churn=come / active if active else 0.0,
            explored=sum(self.explored_counts.values()) / self.parameters if self.parameters else 1.0,
            initial=_share(sum(self.initial.values()), sum(self.first.values())),
            layers=dict(self.active),
        )

    def layers(self, before: UpdateReport) -> tuple[LayerHistory, ...]:
        """Return the statistics of each layer over all updates so far."""
        return tuple(
            LayerHistory(
                name=name,
                parameters=explored.size,
                first_density=_share(before.layers[name], explored.size),
                density=_share(self.active[name], explored.size),
                lost=self.lost[name],
                gained=self.gained[name],
                explored=_share(self.explored_counts[name], explored.size),
                initial=_share(self.initial[name], self.first[name]),
            )
            for name, explored in self.explored.items()
        )

    def survival(self) -> tuple[Survival, ...]:
        """Return the survival curve, as far as any gained weight was observed."""
        lasting: Counts = np.zeros_like(self.ended)
        for born in self.born.values():
            lasting += np.bincount(self.number - born[born > 0], minlength=lasting.size)
        watched = np.cumsum((self.ended + lasting)[::-1])[::-1]
        points, share = [], 1.0
        for updates in range(1, self.ended.size):
            observed = int(watched[updates])
            if observed == 0:
                break
            share *= 1.0 - int(self.ended[updates]) / observed
            points.append(Survival(updates=updates, share=share, observed=observed))
        return tuple(points)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
