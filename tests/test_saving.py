"""Saving in the background, what is kept, and what happens when a disk does not play along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from granet.checkpoint import load
from granet.errors import FileError
from granet.recipe import Recipe
from granet.runs.retention import Retention
from granet.training import RunFolder, train
from granet.training.checkpoint_thread import CheckpointThread
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    images = write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)
    return Recipe.from_toml(
        f"""
        name = "tiny"
        model.name = "lenet-300-100"
        data = {{name = "image-folder", directory = "{images}"}}
        method = {{name = "rigl", density = 0.2, interval = "2it"}}
        optimizer = {{name = "sgd", learning_rate = 0.01, momentum = 0.9}}
        schedule.name = "constant"
        training = {{epochs = 3, batch_size = 12}}
        """,
        where="test",
    )


@pytest.mark.parametrize(
    ("rules", "kept", "step", "expected"),
    [
        (Retention(None, None, 2), [6, 12], 18, [6]),
        (Retention(None, 6, 2), [0, 6, 7, 8], 9, [7]),
        (Retention(None, 6, None), [0, 6, 12], 18, []),
        (Retention(None, None, 1), [6, 99], 12, [6]),  # 99 is of a future that a kill undid
        (Retention(None, None, 3), [6, 12], 12, []),
    ],
)
def test_what_may_go(rules: Retention, kept: list[int], step: int, expected: list[int]) -> None:
    assert rules.obsolete(kept, step) == expected


def test_rewind_points_are_kept_and_loadable(recipe: Recipe, tmp_path: Path) -> None:
    runs = RunFolder(tmp_path)
    train(recipe.override({"training.keep_every": "4it"}), runs, CPU)
    assert runs.kept_steps() == [0, 4, 8, 12, 16]
    assert [load(runs.kept(step)).step for step in runs.kept_steps()] == runs.kept_steps()


def test_the_newest_few_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    runs = RunFolder(tmp_path)
    train(recipe.override({"training.keep_last": "2", "training.save_every": "4it"}), runs, CPU)
    assert runs.kept_steps() == [16, 18]


def test_keeping_changes_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    plain, keeping = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "keeping")
    train(recipe, plain, CPU)
    train(recipe.override({"training.keep_every": "1it"}), keeping, CPU)
    one, other = load(plain.last), load(keeping.last)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_folder_that_vanishes_ends_the_run_with_a_clear_error(recipe: Recipe, tmp_path: Path) -> None:
    runs = RunFolder(tmp_path / "run")

    def vanish(event: object) -> None:
        if getattr(event, "step", 0) == 6 and runs.path.exists():
            runs.path.rename(tmp_path / "elsewhere")

    with pytest.raises(FileError, match="could not be written"):
        train(recipe, runs, CPU, watch=vanish)
    assert load(tmp_path / "elsewhere" / "last.safetensors").step in (0, 6)


class TestSaver:
    """One save at a time; the training loop waits for encoding only, and errors come out at the next step."""

    @pytest.fixture
    def state(self, recipe: Recipe, tmp_path: Path):
        runs = RunFolder(tmp_path / "run")
        train(recipe.override({"training.epochs": "1"}), runs, CPU)
        return load(runs.last)

    def test_release_waits_for_the_encoder_and_close_for_the_disk(
        self, state, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from granet.training import checkpoint_thread

        gate, order = threading.Event(), []
        write = checkpoint_thread.atomic.write

        def slow(path: Path, data: bytes) -> None:
            gate.wait(10)
            order.append("written")
            write(path, data)

        monkeypatch.setattr(checkpoint_thread.atomic, "write", slow)
        saver = CheckpointThread(CPU)
        saver.submit(state, [tmp_path / "a"])
        saver.release()
        for weight in state.weights.values():
            weight.zero_()  # training goes on; the file must not see it
        order.append("released")
        gate.set()
        saver.close()
        assert order == ["released", "written"]
        assert any(weight.any() for weight in load(tmp_path / "a").weights.values())

    def test_an_error_surfaces_once(self, state, tmp_path: Path) -> None:
        saver = CheckpointThread(CPU)
        saver.submit(state, [tmp_path / "missing" / "a"])
        with pytest.raises(FileError, match="could not be written"):
            saver.close()
        saver.close()
        saver.submit(state, [tmp_path / "b"])
        saver.close()
        assert load(tmp_path / "b").step == state.step

    def test_nothing_is_removed_before_its_successor_is_safe(self, state, tmp_path: Path) -> None:
        old = tmp_path / "old"
        old.write_bytes(b"precious")
        saver = CheckpointThread(CPU)
        saver.submit(state, [tmp_path / "missing" / "new"], obsolete=[old])
        with pytest.raises(FileError):
            saver.close()
        assert old.exists()


def test_real_kills_lose_nothing(tmp_path: Path) -> None:
    """A short `make soak`: SIGKILL at random moments, saves included, until the run is through."""
    command = [sys.executable, "-m", "scripts.soak", "--kills", "8", "--folder", str(tmp_path), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_asked_about_not_suffered(number: int) -> None:
    from granet.training import stop_on_signals

    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop()
