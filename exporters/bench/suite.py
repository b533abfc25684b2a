"""Export of a run for ``granet bench --suite``: each density that it kept, in each encoding, and one control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.bench.report import Skipped
from granet.checkpoint import Checkpoint, load
from granet.errors import UnknownNameError, UsageError
from granet.files.atomic import file_errors
from granet.masks.mapping import density
from granet.runs import find
from granet.runs.folder import RunFolder

COMPACT = "compact"
"""Besides the encodings: plain weights, without the channels that compaction removes."""


@dataclass(frozen=True)
class Suite:
    """The exported files.

    Attributes:
        models: from the densest checkpoint to the sparsest.
        control: the densest checkpoint with plain weights. All have its graph, except compacted ones.
        skipped: what was not exported, and why.
    """

    models: list[Path]
    control: Path
    skipped: list[Skipped]


def export_suite(
    run: Path,
    encodings: Sequence[str],
    *,
    confirmed: str | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Suite:
    """Export the checkpoints of the run in the folder ``run``, or of the runs in its folders, into ``run/bench``.

    Files there of an earlier sweep are replaced where their names are the same. ``encodings`` are those of ``granet
    export``, and ``compact``; ``confirmed`` is the network's factory, when checkpoints name code of the user's.

    Raises:
        UnknownNameError: no such encoding.
        UsageError: no run there.
        CheckpointError: a checkpoint that is not sound.
        FileError: the folder cannot be written.
        ModelError: a network that cannot be exported.
    """
    from exporters.encoding import ENCODINGS
    from exporters.onnx_export import ExportSettings, export

    for encoding in encodings:
        if encoding not in (*ENCODINGS, COMPACT):
            raise UnknownNameError("encoding", encoding, (*ENCODINGS, COMPACT), where="--encodings")
    checkpoints = sorted(_checkpoints(run), key=lambda found: -density(found[1].masks))
    folder = run / "bench"
    with file_errors(folder, "the folder cannot be made"):
        folder.mkdir(exist_ok=True)
    control = folder / "control.onnx"
    wanted = [(*checkpoints[0], "dense", control)]
    for path, checkpoint in checkpoints:
        stem = f"density-{density(checkpoint.masks):.4f}"
        wanted += [(path, checkpoint, encoding, folder / f"{stem}.{encoding}.onnx") for encoding in encodings]
    models, skipped = [], []
    for path, checkpoint, encoding, target in wanted:
        say(f"{target}: exporting {path}")
        compact = encoding == COMPACT
        settings = ExportSettings(encoding="dense" if compact else encoding, compact=compact)
        report = export(checkpoint, target, settings, factory=confirmed)
        if report.compaction is not None and not report.compaction.removed:
            target.unlink()
            skipped.append(Skipped(target.name, "no channel can be removed without changing what the network computes"))
        elif target != control:
            models.append(target)
    return Suite(models, control, skipped)


def _checkpoints(run: Path) -> list[tuple[Path, Checkpoint]]:
    """Return one checkpoint for each density: the best of each run, and those kept during training."""
    folders, problems = find.find([str(run)])
    if not folders:
        raise UsageError(
            "there is no run",
            where=run,
            got=problems[0].message if problems else None,
            expected="the folder that granet train --out made, or one that holds such folders",
        )
    found: dict[int, tuple[Path, Checkpoint]] = {}
    for folder in folders:
        files = RunFolder(folder)
        paths = [files.best if files.best.exists() else files.last, *map(files.kept, reversed(files.kept_steps()))]
        for path in paths:
            checkpoint = load(path)
            found.setdefault(sum(int(mask.sum()) for mask in checkpoint.masks.values()), (path, checkpoint))
    return list(found.values())
