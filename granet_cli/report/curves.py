"""Pictures of what runs measured while they trained: losses, accuracies, densities and exploration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from granet_cli.report.markup import Markup
from granet_cli.report.plane import Curve, Plane
from granet_cli.report.scales import Point, Scale, linear, percents, thinned

if TYPE_CHECKING:
    from granet.analysis.history import UpdateReport
    from granet.analysis.run_report import Epoch, RunReport

COLOURS, DASHES = 5, 4
MOST_RUNS = COLOURS * DASHES
"""Curves that can be told apart."""

_MOST_LABELS = 12
_POINTS, _FEWEST_POINTS = 3000, 60
"""Points in a picture, shared among its curves, and the fewest that a curve has."""

Pick = Callable[["Epoch"], float | None]
Drawn = tuple["RunReport", int]
"""A run and its number, from 1."""


def most_points(runs: int) -> int:
    """Points that a curve may have when there are so many."""
    return max(_POINTS // max(runs, 1), _FEWEST_POINTS)


def is_thinned(runs: Sequence[RunReport]) -> bool:
    """Whether some curve has more points than are drawn."""
    longest = max((max(len(run.epochs), len(_states(run))) for run in runs), default=0)
    return longest > most_points(len(runs))


def of_one(run: RunReport) -> list[Markup]:
    """The pictures of a single run, with training and validation in one."""
    epochs = _epoch_scale([run])
    pictures: list[Plane | None] = [
        _pair(run, epochs, "loss", "Loss", "cross-entropy", 1.0, lambda e: e.loss, lambda e: e.validation_loss),
        _pair(
            run,
            epochs,
            "accuracy",
            "Accuracy",
            "accuracy, %",
            100.0,
            lambda e: e.accuracy,
            lambda e: e.validation_accuracy,
        ),
        _densities([(run, 1)], epochs, labelled=False),
        _remains(run, epochs),
    ]
    return [picture.draw() for picture in pictures if picture is not None]


def of_several(runs: Sequence[RunReport]) -> list[Markup]:
    """The pictures of several runs, a curve for each; the first ``MOST_RUNS`` of them."""
    drawn = [(run, index + 1) for index, run in enumerate(runs[:MOST_RUNS])]
    epochs = _epoch_scale([run for run, _ in drawn])

    def several(name: str, title: str, unit: str, factor: float, pick: Pick) -> Plane | None:
        curves = {n: _measured(run, pick, factor, len(drawn)) for run, n in drawn}
        return _plane(name, title, unit, epochs, curves)

    pictures = [
        several("validation-loss", "Validation loss", "cross-entropy", 1.0, lambda e: e.validation_loss),
        several("validation-accuracy", "Validation accuracy", "accuracy, %", 100.0, lambda e: e.validation_accuracy),
        several("training-loss", "Training loss", "cross-entropy", 1.0, lambda e: e.loss),
        several("training-accuracy", "Training accuracy", "accuracy, %", 100.0, lambda e: e.accuracy),
        _densities(drawn, epochs),
        _explored(drawn, epochs),
        _against_density(drawn),
    ]
    return [picture.draw() for picture in pictures if picture is not None]


def _pair(
    run: RunReport, epochs: Scale, name: str, title: str, unit: str, factor: float, training: Pick, validation: Pick
) -> Plane | None:
    """Training and validation of one run."""
    curves = {
        label: points
        for label, pick in (("training", training), ("validation", validation))
        if (points := _measured(run, pick, factor, 1))
    }
    if not curves:
        return None
    return Plane(
        name=name,
        title=title,
        description=_described(curves, unit),
        x=epochs,
        y=linear(y for points in curves.values() for _, y in points),
        x_label="epoch",
        y_label=unit,
        curves=[
            Curve(points=points, slot=("training", "validation").index(label), label=label)
            for label, points in curves.items()
        ],
    )


def _plane(
    name: str,
    title: str,
    unit: str,
    epochs: Scale,
    found: Mapping[int, list[Point]],
    *,
    y: Scale | None = None,
    stepped: bool = False,
    labelled: bool = True,
) -> Plane | None:
    """A picture with a curve for each number of a run; None when none has points."""
    curves = {number: points for number, points in found.items() if points}
    if not curves:
        return None
    labelled = labelled and len(curves) <= _MOST_LABELS
    return Plane(
        name=name,
        title=title,
        description=_described({f"run {n}": points for n, points in curves.items()}, unit),
        x=epochs,
        y=y or linear(value for points in curves.values() for _, value in points),
        x_label="epoch",
        y_label=unit,
        curves=[
            Curve(points=points, slot=n - 1, label=str(n) if labelled else "", stepped=stepped)
            for n, points in curves.items()
        ],
    )


def _described(curves: Mapping[str, Sequence[Point]], unit: str) -> str:
    """What can be seen, in words."""
    told = [
        f"{label}: from {points[0][1]:.4g} at epoch {points[0][0]:.4g} to {points[-1][1]:.4g} at epoch "
        f"{points[-1][0]:.4g}"
        for label, points in curves.items()
    ]
    return f"In {unit}. {'; '.join(told)}."


def _measured(run: RunReport, pick: Pick, factor: float, runs: int) -> list[Point]:
    points = [
        (epoch.step / run.steps_per_epoch, factor * value) for epoch in run.epochs if (value := pick(epoch)) is not None
    ]
    return thinned(points, most_points(runs))


def _epoch_scale(runs: Iterable[RunReport]) -> Scale:
    """From where the first of them begins to where the last has come."""
    ends = [
        step / run.steps_per_epoch for run in runs for step in (run.begins_at, run.outcome.step, *_noted_steps(run))
    ]
    return linear(ends, low=min(ends), high=max(*ends, min(ends) + 1e-3))


def _noted_steps(run: RunReport) -> list[int]:
    return [run.epochs[0].step, run.epochs[-1].step] if run.epochs else []


def _states(run: RunReport) -> list[UpdateReport]:
    return [] if run.history is None else [run.history.before, *run.history.updates]


def _replayed(run: RunReport, pick: Callable[[UpdateReport], float], runs: int) -> list[Point]:
    """A share in per cent from the history of the masks, on to the newest checkpoint."""
    states = _states(run)
    if not states:
        return []
    points = [(state.epoch, 100 * pick(state)) for state in states]
    return thinned([*points, (run.outcome.step / run.steps_per_epoch, points[-1][1])], most_points(runs))


def _densities(drawn: Sequence[Drawn], epochs: Scale, *, labelled: bool = True) -> Plane | None:
    count = len(drawn)
    found = {
        n: _replayed(run, lambda state: state.density, count) or _measured(run, lambda e: e.density, 100.0, count)
        for run, n in drawn
    }
    scale = percents(value for points in found.values() for _, value in points)
    unit = "active weights, % (logarithmic)"
    return _plane("density", "Density", unit, epochs, found, y=scale, stepped=True, labelled=labelled)


def _explored(drawn: Sequence[Drawn], epochs: Scale) -> Plane | None:
    """The exploration rate of each run."""
    found = {n: _replayed(run, lambda state: state.explored, len(drawn)) for run, n in drawn}
    scale = linear((), low=0.0, high=100.0)
    return _plane("explored", "Exploration rate", "active at some time, %", epochs, found, y=scale, stepped=True)


def _remains(run: RunReport, epochs: Scale) -> Plane | None:
    """What one run explored, and what remains of its first masks."""
    curves = {
        "ever": _replayed(run, lambda state: state.explored, 1),
        "always": _replayed(run, lambda state: state.initial, 1),
    }
    if not curves["ever"]:
        return None
    named = {"active at some time": curves["ever"], "active ever since the start": curves["always"]}
    return Plane(
        name="explored",
        title="Exploration rate, and what stayed of the first masks",
        description=_described(named, "%"),
        x=epochs,
        y=linear((), low=0.0, high=100.0),
        x_label="epoch",
        y_label="ever: of all weights; always: of the first, %",
        curves=[
            Curve(points=points, slot=slot, label=label, stepped=True)
            for slot, (label, points) in enumerate(curves.items())
        ],
    )


def _against_density(drawn: Sequence[Drawn]) -> Plane | None:
    """What accuracy was had for which density; where there is something to compare."""
    found = {
        n: (100 * run.outcome.density, 100 * run.outcome.test_accuracy)
        for run, n in drawn
        if run.outcome.test_accuracy is not None and run.outcome.density > 0
    }
    if len(found) < 2:
        return None
    told = [f"run {n}: {y:.2f} % at a density of {x:.4g} %" for n, (x, y) in found.items()]
    return Plane(
        name="density-accuracy",
        title="Test accuracy against density",
        description=f"{'; '.join(told)}.",
        x=percents(x for x, _ in found.values()),
        y=linear(y for _, y in found.values()),
        x_label="active weights, % (logarithmic)",
        y_label="test accuracy, %",
        curves=[Curve(points=[point], slot=n - 1, label=str(n), dotted=True) for n, point in found.items()],
    )
