"""The folder of a run: the names of its files, and what a new run may do to an old one.

recipe.toml          the resolved recipe
last.safetensors     the newest state, from which training is resumed
best.safetensors     the best validation accuracy at the final density
step-N.safetensors   states kept during training, when asked for: rewind points
metrics.jsonl        a line for each epoch, update and test, with times
sessions.jsonl       where and when it was trained, by the command line
history.bin          every change of the masks, see ``granet.history``
tensorboard/         when asked for

A rewind in several rounds is a folder of such folders:

rewind.toml            the recipe of the first round, which determines the others
round-01, round-02 ... their runs
rounds.json            a row for each finished round
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from granet.checkpoint import Checkpoint, load, load_outline
from granet.errors import CheckpointError, FileError, UsageError
from granet.files import atomic
from granet.recipe import Recipe

_ROUND = re.compile(r"round-\d{2,}")
_KEPT = re.compile(r"step-(\d{8,})\.safetensors")


class RunFolder:
    """The paths of one run, or of a rewind in several rounds; see the module for what each file is.

    Attributes:
        path: of the folder.
        recipe_file, last, best, metrics_file, sessions_file, history, tensorboard: of a run.
        rewind_file, table_file: of a rewind in several rounds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.toml"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.metrics_file = path / "metrics.jsonl"
        self.sessions_file = path / "sessions.jsonl"
        self.history = path / "history.bin"
        self.tensorboard = path / "tensorboard"
        self.rewind_file = path / "rewind.toml"
        self.table_file = path / "rounds.json"

    def kept(self, step: int) -> Path:
        """Return the path of the checkpoint kept at ``step``."""
        return self.path / f"step-{step:08d}.safetensors"

    def kept_steps(self) -> list[int]:
        """Return the steps of which a checkpoint is kept, in order."""
        names = (_KEPT.fullmatch(path.name) for path in self.path.glob("step-*.safetensors"))
        return sorted(int(name[1]) for name in names if name)

    def round_folder(self, number: int) -> RunFolder:
        """Return the folder of a round, from 1."""
        return RunFolder(self.path / f"round-{number:02d}")

    def rounds(self) -> list[RunFolder]:
        """Return the folders of all rounds that were begun, in order."""
        found = (path for path in self.path.glob("round-*") if _ROUND.fullmatch(path.name))
        return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name.removeprefix("round-")))]

    def remove_kept(self, steps: Iterable[int]) -> None:
        """Remove the checkpoints kept at ``steps``."""
        for step in steps:
            self.kept(step).unlink(missing_ok=True)

    def holds_run(self) -> bool:
        """Return whether a run was begun here."""
        return self.recipe_file.is_file() or self.last.is_file()

    def holds_rounds(self) -> bool:
        """Return whether a rewind in several rounds was begun here."""
        return self.rewind_file.is_file() or any(folder.holds_run() for folder in self.rounds())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder if necessary, and lock it for this process. The system unlocks it when the process ends.

        Raises:
            UsageError: another process has locked it, or it cannot be made.
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

    def is_claimed(self) -> bool:
        """Return whether a process on this machine trains here. False where the file system has no locks."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def check_free(self, *, overwrite: bool) -> None:
        """Raise UsageError when a run or a rewind is here that is not to be overwritten."""
        if overwrite:
            return
        if self.holds_rounds():
            raise UsageError(
                "the folder already holds the rounds of a rewind",
                where=self.path,
                remedy=f"go on with them by granet rewind --resume {self.path}, replace them with --overwrite, or "
                "choose another --out",
            )
        if self.holds_run():
            raise UsageError(
                "the folder already holds a run",
                where=self.path,
                remedy=f"go on with it by --resume {self.path}, replace it with --overwrite, or choose another --out",
            )

    def create(self, recipe: Recipe, *, rounds: bool = False) -> None:
        """Make the folder for a new run, remove what an earlier run left, and write the recipe.

        With ``rounds`` it is to hold the folders of several rounds, of which ``recipe`` is that of the first.

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
        """Remove the run or the rounds that are here, and nothing else.

        Raises:
            UsageError: another process trains in one of the rounds; nothing is removed then.
        """
        with ExitStack() as claims:
            rounds = self.rounds()
            for folder in rounds:
                claims.enter_context(folder.claimed())
            self.rewind_file.unlink(missing_ok=True)  # first: without it this is no rewind
            self.table_file.unlink(missing_ok=True)
            for folder in rounds:
                folder.clear()
                with suppress(OSError):
                    folder.path.rmdir()  # unless it has other files
        self.remove_kept(self.kept_steps())
        for file in (self.recipe_file, self.last, self.best, self.metrics_file, self.sessions_file, self.history):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def open(self) -> tuple[Recipe, Checkpoint | None]:
        """Return the recipe and the newest checkpoint of a run to resume; None where it ended before its first.

        Raises:
            UsageError: there is no run here.
            CheckpointError: the checkpoint is damaged.
        """
        self.check_run()
        if self.last.exists():
            checkpoint = load(self.last)
            self._check_state(checkpoint)
            return checkpoint.recipe, checkpoint
        return Recipe.load(self.recipe_file), None

    def newest(self) -> Checkpoint:
        """Return the newest checkpoint of the run here, checked, but without values; see ``load_outline``.

        Raises:
            UsageError: there is no run here, or no checkpoint of it yet.
            CheckpointError: the checkpoint is damaged, or not the state of a run.
        """
        if not self.path.is_dir():
            fault = "not a folder" if self.path.exists() else "nothing of this name is there"
            raise UsageError(fault, where=self.path, expected="the folder of a run")
        if not self.holds_run():
            if not self.rewind_file.is_file():
                raise UsageError("no run here", where=self.path)
            remedy = f"name one of its rounds, such as {self.round_folder(1).path}"
            raise UsageError("this is a rewind in several rounds", where=self.path, remedy=remedy)
        if not os.path.lexists(self.last):
            remedy = f"wait for the first one, or go on by granet train --resume {self.path}"
            raise UsageError("the run has no checkpoint yet", where=self.path, remedy=remedy)
        checkpoint = load_outline(self.last)
        self._check_state(checkpoint)
        return checkpoint

    def _check_state(self, checkpoint: Checkpoint) -> None:
        if not all(type(checkpoint.progress.get(key)) is int for key in ("steps_per_epoch", "total_steps")):
            raise CheckpointError(
                "these are weights, not the state of a run",
                where=self.last,
                got="an imported checkpoint"
                if "imported" in checkpoint.metrics
                else "a checkpoint that does not record its position in the data",
                remedy="inspect, evaluate or export it, or begin a run of its own",
            )

    def check_run(self) -> None:
        """Raise UsageError when there is no run here."""
        if not self.holds_run():
            raise UsageError(
                "there is no run to resume",
                where=self.path,
                expected=f"{self.last.name} or {self.recipe_file.name} in it",
                remedy="name the folder that --out named, or start a run with --out",
            )
