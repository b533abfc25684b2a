"""Warnings about circumstances that make a measurement less reliable."""

from __future__ import annotations

from exporters.bench.clocks import Gpu
from exporters.bench.comparison import ComparisonOutcome
from exporters.bench.environment import load, usable_cores
from exporters.bench.settings import BenchSettings

_ENOUGH = 100


def before(gpu: Gpu | None) -> list[str]:
    """Return warnings about other work on the machine, before anything is measured."""
    found = []
    others = gpu.processes() if gpu is not None else []
    if others:
        found.append(f"the GPU is busy with {', '.join(others)}, which makes times longer and uneven")
    wanted = load()
    if wanted is not None and wanted > usable_cores() / 2:
        found.append(f"the machine was busy before this began: load {wanted:g} on {usable_cores()} logical cores")
    return found


def after(outcome: ComparisonOutcome, settings: BenchSettings, name: str) -> list[str]:
    """Return warnings about a comparison: wide intervals, few runs, throttled clocks."""
    found = []
    measured = {label: track for label, track in outcome.tracks.items() if track.times}
    few = {label: len(track.times) for label, track in measured.items() if len(track.times) < _ENOUGH}
    if not outcome.narrow and not outcome.interrupted and measured:
        found.append(
            f"{name}: time was up before all ratios were known to {100 * settings.width:g} %, after "
            f"{outcome.generations} processes; --time-limit gives more, now {settings.time_limit:g} s"
        )
    if few:
        least = min(few.values())
        found.append(
            f"{name}: only {least} runs of some models, too few for their p99, which is close to the slowest run"
        )
    if outcome.clocks is not None and outcome.clocks.throttled:
        share = f"{outcome.clocks.throttled} of {outcome.clocks.samples} samples"
        found.append(f"{name}: heat or a power limit lowered the GPU's clocks in {share}")
    return found
