"""The folder of a run: what is in it, and what a new run may do to an old one.

recipe.toml          the resolved recipe
last.safetensors     the newest state; training goes on from here
best.safetensors     the best validation accuracy at the final density
step-N.safetensors   states kept on the way, when asked for: rewind points
metrics.jsonl        one line for each epoch, update and test, with times
sessions.jsonl       where and when it was trained, when the command line did
history.bin          every change of the masks, see ``granet.history``
tensorboard/         when asked for

A rewind in several rounds is a folder of such folders:

rewind.toml            the recipe of the first round, which says all of the others too
round-01, round-02 ... their runs
rounds.json            a row for each round that is done
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from granet.checkpoint import Checkpoint, load
from granet.errors import CheckpointError, FileError, UsageError
from granet.files import atomic
from granet.recipe import Recipe
from granet.runs.find import HISTORY

_ROUND = re.compile(r"round-\d{2,}")
_KEPT = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.path / "best.safetensors"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def sessions_file(self) -> Path:
        """Where and when the run was trained, one JSON object a line; written by the command line."""
        return self.path / "sessions.jsonl"

    @property
    def history(self) -> Path:
        """Every change of the masks."""
        return self.path / HISTORY

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / "tensorboard"

    def kept(self, step: int) -> Path:
        """The checkpoint kept of ``step``."""
        return self.path / f"step-{step:08d}.safetensors"

    def kept_steps(self) -> list[int]:
        """The steps of which a checkpoint is kept, in order."""
        names = (_KEPT.fullmatch(path.name) for path in self.path.glob("step-*.safetensors"))
        return sorted(int(name[1]) for name in names if name)

    @property
    def rewind_file(self) -> Path:
        """The recipe of the first of several rounds."""
        return self.path / "rewind.toml"

    @property
    def table_file(self) -> Path:
        """The rows of the rounds that are done."""
        return self.path / "rounds.json"

    def round(self, number: int) -> RunFolder:
        """The run of a round, from 1."""
        return RunFolder(self.path / f"round-{number:02d}")

    def rounds(self) -> list[RunFolder]:
        """The runs of all rounds that were begun, in order."""
        found = (path for path in self.path.glob("round-*") if _ROUND.fullmatch(path.name))
        return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name.removeprefix("round-")))]

    def forget(self, steps: Iterable[int]) -> None:
        """Removes the checkpoints kept of ``steps``, which a kill may have left over."""
        for step in steps:
            self.kept(step).unlink(missing_ok=True)

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.recipe_file.exists() or self.last.exists()

    def holds_rounds(self) -> bool:
        """Whether a rewind in several rounds was begun here."""
        return self.rewind_file.exists() or any(folder.holds_run() for folder in self.rounds())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder if need be and holds it for this process alone; the system lets go when the process ends.

        Raises:
            UsageError: another process holds it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UsageError("cannot use this folder for a run", where=self.path, got=error.strerror) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    "another process is training in this folder",
                    where=self.path,
                    remedy="wait for it, or choose another --out",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def check_free(self, *, overwrite: bool) -> None:
        """Raises UsageError when a run or a rewind is here that is not to be overwritten."""
        if self.holds_rounds() and not overwrite:
            raise UsageError(
                "the folder already holds the rounds of a rewind",
                where=self.path,
                remedy=f"go on with them by granet rewind --resume {self.path}, replace them with --overwrite, or "
                "choose another --out",
            )
        if self.holds_run() and not overwrite:
            raise UsageError(
                "the folder already holds a run",
                where=self.path,
                remedy=f"go on with it by --resume {self.path}, replace it with --overwrite, or choose another --out",
            )

    def create(self, recipe: Recipe, *, rounds: bool = False) -> None:
        """Make the folder for a new run, remove what an earlier run left, and write the recipe.

        Args:
            recipe: of the run or, with ``rounds``, of the first of several rounds.
            rounds: the folder is to hold the folders of several rounds.

        Raises:
            UsageError: the folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.clear()
            atomic.write(self.rewind_file if rounds else self.recipe_file, recipe.to_toml().encode())
        except (FileError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.got
            raise UsageError("cannot write a run here", where=self.path, got=reason) from error

    def clear(self) -> None:
        """Removes the run or the rounds that are here, and nothing else.

        Raises:
            UsageError: another process is at work in one of the rounds; nothing is removed then.
        """
        with ExitStack() as held:
            rounds = self.rounds()
            for folder in rounds:
                held.enter_context(folder.claimed())
            self.rewind_file.unlink(missing_ok=True)  # first, so that half of this is no rewind any more
            self.table_file.unlink(missing_ok=True)
            for folder in rounds:
                folder.clear()
                with suppress(OSError):
                    folder.path.rmdir()  # unless somebody put something into it
        kept = [self.kept(step) for step in self.kept_steps()]
        lines = (self.metrics_file, self.sessions_file)
        for file in (self.recipe_file, self.last, self.best, *lines, self.history, *kept):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def open(self) -> tuple[Recipe, Checkpoint | None]:
        """The recipe and newest checkpoint of a run to go on with; no checkpoint when it died before the first.

        Raises:
            UsageError: there is no run here.
            CheckpointError: the checkpoint is damaged.
        """
        if self.last.exists():
            checkpoint = load(self.last)
            if "steps_per_epoch" not in checkpoint.progress:
                raise CheckpointError(
                    "this is not the state of a run, but weights without a past",
                    where=self.last,
                    got="an imported checkpoint" if "imported" in checkpoint.metrics else "no position in any data",
                    remedy="inspect, evaluate or export it, or begin a run of its own",
                )
            return checkpoint.recipe, checkpoint
        if self.recipe_file.exists():
            return Recipe.load(str(self.recipe_file)), None
        raise self._no_run()

    def check_run(self) -> None:
        """Raises UsageError when there is no run here."""
        if not self.holds_run():
            raise self._no_run()

    def _no_run(self) -> UsageError:
        return UsageError(
            "there is no run to resume",
            where=self.path,
            expected=f"{self.last.name} or {self.recipe_file.name} in it",
            remedy="name the folder that --out named, or start a run with --out",
        )

    def append_metrics(self, line: Mapping[str, object]) -> None:
        """Adds one line to metrics.jsonl."""
        with (
            atomic.file_errors(self.metrics_file, "metrics could not be written"),
            self.metrics_file.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(line) + "\n")

    def rewind_metrics(self, *, step: int, epochs: int, tested: bool) -> None:
        """Forgets lines of work that is going to be done again: past ``step`` or that many epochs, or the test."""
        if not self.metrics_file.exists():
            return
        kept = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                repeated = (
                    entry["step"] > step
                    or (entry["event"] == "epoch" and entry["epoch"] > epochs)
                    or (entry["event"] == "test" and not tested)
                )
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut short
            if not repeated:
                kept.append(line)
        atomic.write(self.metrics_file, "".join(line + "\n" for line in kept).encode())
