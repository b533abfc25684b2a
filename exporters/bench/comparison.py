"""Models against their controls: fresh processes that are alive together and take turns.

A *generation* is one fresh process for each model. They are made in random order, warmed up in turns, and then measured
in *blocks*: every model has a short burst of runs, in random order, and then another in the reverse order, so that what
drifts cancels. Only one process computes at a time. Generations follow until the intervals are narrow or time is up.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from exporters.bench import clocks
from exporters.bench.process import DoesNotFitError, WorkerProcess
from exporters.bench.protocol import Opened, Spec
from exporters.bench.settings import BenchSettings
from exporters.bench.statistics import Ratio, block, ratio, settled
from granet.errors import GranetError

_LONGEST_OPENING = 900.0
_MOST_RUNS = 1000
_MOST_WARM_UP = 10
_MOST_GENERATIONS = 50


@dataclass(frozen=True)
class Contender:
    """A model that takes part.

    Attributes:
        label: unique among those compared.
        spec: what its processes run.
        control: label of what it is compared with; None for a control.
        surroundings: environment variables of its processes.
    """

    label: str
    spec: Spec
    control: str | None
    surroundings: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Track:
    """What was seen of one model, generation by generation."""

    entry: Contender
    times: list[float] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    blocks: list[list[float]] = field(default_factory=list)
    settled: list[bool] = field(default_factory=list)
    warm_up_runs: int = 0
    peak_memory: int = 0
    own_memory: int = 0
    device_memory: int | None = None
    failure: GranetError | None = None

    def ratio(self) -> Ratio | None:
        """Against its control; None when that could not be measured together."""
        return ratio(self.blocks) if any(self.blocks) else None


@dataclass(frozen=True)
class ComparisonOutcome:
    """All tracks of one comparison, and what the GPU showed meanwhile."""

    tracks: Mapping[str, Track]
    generations: int
    clocks: clocks.Clocks | None
    seconds: float
    narrow: bool
    interrupted: bool


class Process(Protocol):
    """What is needed of a worker; tests bring their own."""

    def open(self, spec: Spec, *, limit: float) -> Opened:
        """See ``process.Worker``."""

    def burst(self, runs: int, *, drop: int, limit: float) -> list[float]:
        """See ``process.Worker``."""

    def memory(self) -> tuple[int, int]:
        """See ``process.Worker``."""

    def close(self) -> None:
        """See ``process.Worker``."""


Start = Callable[[Contender], Process]


def start(entry: Contender) -> Process:
    """A fresh process for ``entry``."""
    return WorkerProcess(surroundings=entry.surroundings, where=entry.label)


def compare(
    entries: Sequence[Contender],
    settings: BenchSettings,
    *,
    gpu: clocks.Gpu | None = None,
    start: Start = start,
    say: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> ComparisonOutcome:
    """Measures ``entries`` together, at least as many generations of them as ``settings.processes`` says.

    A model that fails takes no further part; its error is in its track. Ctrl-C ends the measurement with what there
    is. No process is left when this returns.
    """
    tracks = {entry.label: Track(entry) for entry in entries}
    order = random.Random(settings.seed)  # noqa: S311  turns, not secrets
    samples: list[clocks.Sample] = []
    begin, generations, narrow, interrupted = clock(), 0, False, False
    try:
        while _goes_on(tracks, settings, generations, clock() - begin, narrow=narrow):
            share = settings.time_limit / settings.processes
            end = clock() + share
            with _generation(tracks, settings, order, gpu, start) as turns:
                for number in range(settings.blocks):
                    # A second block is worth having, unless the first one was as long as all should be.
                    if number and clock() > end + share * (number == 1):
                        break
                    turns.block()
                    if gpu is not None:
                        samples.append(gpu.sample())
            generations += 1
            ratios = [found for track in tracks.values() if track.failure is None and (found := track.ratio())]
            narrow = all(is_narrow(found, settings) for found in ratios)
            say(_told(ratios, generations))
    except KeyboardInterrupt:
        interrupted = True
    return ComparisonOutcome(tracks, generations, clocks.summarise(samples), clock() - begin, narrow, interrupted)


class _Turns:
    """The processes of one generation."""

    def __init__(self, tracks: Mapping[str, Track], settings: BenchSettings, order: random.Random) -> None:
        self._tracks, self._settings, self._order = tracks, settings, order
        self.processes: dict[str, Process] = {}
        self._runs: dict[str, int] = {}
        self._times: dict[str, list[float]] = {}

    def warm_up(self) -> None:
        """In turns, until the times of each settle, for the least time at least and ten times that at most."""
        spent = dict.fromkeys(self.processes, 0.0)
        medians: dict[str, list[float]] = {label: [] for label in self.processes}
        waiting = list(self.processes)
        while waiting:
            for label in list(waiting):
                times = self._burst(label, self._runs.get(label, 1))
                if times is None:
                    waiting.remove(label)
                    continue
                track = self._tracks[label]
                track.warm_up_runs += len(times)
                spent[label] += sum(times)
                medians[label].append(float(np.median(times)))
                self._runs[label] = _fitting(self._settings.burst, medians[label][-1])
                warm = spent[label] >= self._settings.warm_up and settled(medians[label])
                if warm or spent[label] >= _MOST_WARM_UP * self._settings.warm_up:
                    track.settled.append(warm)
                    self._times[label] = medians[label]
                    waiting.remove(label)

    def block(self) -> None:
        """Two bursts of each, and what they say about each and its control."""
        labels = list(self.processes)
        self._order.shuffle(labels)
        medians: dict[str, list[float]] = {label: [] for label in labels}
        for label in [*labels, *reversed(labels)]:
            if label not in self.processes:
                continue
            runs = self._runs[label]
            times = self._burst(label, runs, drop=int(runs > 1))  # the first one meets the caches of the others
            if times is not None:
                self._tracks[label].times += times
                medians[label].append(float(np.median(times)))
        for label in labels:
            control = self._tracks[label].entry.control
            mine, others = medians[label], medians.get(control, []) if control else []
            if len(mine) == len(others) == 2:
                self._tracks[label].blocks[-1].append(block(mine, others))

    def finish(self) -> None:
        """Asks what memory they took."""
        for label, process in list(self.processes.items()):
            try:
                peak, before = process.memory()
            except GranetError as error:
                self._out(label, error)
                continue
            track = self._tracks[label]
            track.peak_memory = max(track.peak_memory, peak)
            track.own_memory = max(track.own_memory, peak - before)

    def _burst(self, label: str, runs: int, drop: int = 0) -> list[float] | None:
        expected = (self._times.get(label) or [1.0])[-1]
        try:
            return self.processes[label].burst(runs, drop=drop, limit=120.0 + 100.0 * (runs + drop) * expected)
        except GranetError as error:
            self._out(label, error)
            return None

    def _out(self, label: str, error: GranetError) -> None:
        """A model that fails is out; the others go on."""
        self._tracks[label].failure = error
        self.processes.pop(label).close()


@contextlib.contextmanager
def _generation(
    tracks: Mapping[str, Track],
    settings: BenchSettings,
    order: random.Random,
    gpu: clocks.Gpu | None,
    start: Start,
) -> Iterator[_Turns]:
    turns = _Turns(tracks, settings, order)
    labels = [label for label, track in tracks.items() if track.failure is None]
    order.shuffle(labels)
    try:
        for label in labels:
            track = tracks[label]
            used = gpu.used_memory() if gpu is not None else None
            process = turns.processes[label] = start(track.entry)
            try:
                track.opened.append(process.open(track.entry.spec, limit=_LONGEST_OPENING))
            except GranetError as error:
                track.failure = _beside(error, len(turns.processes) - 1)
                turns.processes.pop(label).close()
                continue
            track.blocks.append([])
            if gpu is not None and used is not None and (now := gpu.used_memory()) is not None:
                track.device_memory = max(track.device_memory or 0, now - used)
        turns.warm_up()
        yield turns
        turns.finish()
    finally:
        for process in turns.processes.values():
            process.close()


def _beside(error: GranetError, others: int) -> GranetError:
    """Lack of memory may be due to the others that are there at the same time: that has to be known."""
    if not isinstance(error, DoesNotFitError) or not others:
        return error
    return DoesNotFitError(f"{error}, beside {others} other{'s' * (others > 1)} that were open at the same time")


def _fitting(burst: float, seconds: float) -> int:
    return max(1, min(_MOST_RUNS, round(burst / max(seconds, 1e-9))))


def _goes_on(
    tracks: Mapping[str, Track], settings: BenchSettings, generations: int, elapsed: float, *, narrow: bool
) -> bool:
    alive = any(track.failure is None for track in tracks.values())
    if not alive or generations >= _MOST_GENERATIONS:
        return False
    if generations < settings.processes:
        return True
    # The next generation takes as long as the ones before.
    return not narrow and elapsed * (1 + 1 / generations) <= settings.time_limit


def is_narrow(found: Ratio, settings: BenchSettings) -> bool:
    """Whether an interval says enough: it is as narrow as asked, or a tenth of the difference that it shows."""
    difference = abs(np.log(found.value))
    return bool(found.width <= max(settings.width, difference / 10))


def _told(ratios: Sequence[Ratio], generations: int) -> str:
    done = f"process {generations} of each done"
    width = max((found.width for found in ratios), default=1.0)
    return f"{done}, ratios known to {100 * width:.1f} %" if width < 1.0 else done
