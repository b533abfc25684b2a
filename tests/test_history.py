"""The history of a run: complete wherever the run was stopped or killed, and what is read off it."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from granet.analysis.history import report_history
from granet.checkpoint import Checkpoint, load, load_outline, save
from granet.errors import CheckpointError, FileError, Interrupted, UsageError
from granet.history import format as log
from granet.history.recorder import HistoryRecorder
from granet.history.replay import Replay
from granet.methods import METHODS
from granet.recipe import Recipe
from granet.rewinding.plan import RewindRequest, base_recipe, plan
from granet.runs.events import Event, Updated
from granet.training import RunFolder, resume, train
from granet.training.rounds import rewind
from granet.training.run import open_data
from tests.checkpoints import NETWORK
from tests.commandline import Granet
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
TOTAL = 18
SETTINGS = {
    "granet": {"density": 0.2, "interval": "4it", "end": "9it"},
    "granet-uniform": {"density": 0.2, "initial_density": 0.6, "interval": "4it", "end": "9it"},
    "rigl": {"density": 0.3, "interval": "4it"},
    "rigl-itop": {"density": 0.3, "interval": "4it", "growth": "momentum"},
    "set": {"density": 0.3, "interval": "4it"},
    "snfs": {"density": 0.3, "interval": "4it"},
    "gmp": {"density": 0.2, "interval": "4it", "end": "9it"},
    "gmp-uniform": {"density": 0.4, "interval": "4it", "end": "9it", "first_dense": False},
    "static": {"density": 0.3},
    "dense": {},
}

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    images = write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)

    def recipe(method: str = "granet", **training: Any) -> Recipe:
        return Recipe.from_dict(
            {
                "name": "tiny",
                "model": {"name": "lenet-300-100"},
                "data": {"name": "image-folder", "directory": str(images)},
                "method": {"name": method, **SETTINGS[method]},
                "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
                "schedule": {"name": "cosine"},
                "training": {"epochs": 3, "batch_size": 12, **training},
            }
        )

    return recipe


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is through, with checkpoints kept on the way."""
    folder = tmp_path_factory.mktemp("runs") / "granet"
    train(make(keep_every="5it"), RunFolder(folder), CPU)
    return folder


class Kill(BaseException):
    """Stands for the end of the process."""


def at_call(number: int, what: type[BaseException] | None = None) -> Callable[[], bool]:
    """A question that is answered with True, or with the end of the process, when it is asked that often."""
    asked = iter(range(1, 10_000))

    def stop() -> bool:
        due = next(asked) >= number
        if due and what is not None:
            raise what
        return due

    return stop


def history_of(folder: Path) -> bytes:
    return RunFolder(folder).history.read_bytes()


# Writing


@pytest.mark.parametrize("method", METHODS)
def test_the_replay_gives_the_masks_of_every_update(method: str, make: Make, tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def watch(event: Event) -> None:
        if isinstance(event, Updated):
            seen[event.update.step] = {name: mask.clone() for name, mask in event.update.masks.items()}

    train(make(method), RunFolder(tmp_path), CPU, watch=watch)
    replay = Replay.open(tmp_path)
    assert (replay.whole, replay.finished, replay.notes) == (True, True, ())
    assert [moment.step for moment in replay.moments()] == list(seen)
    for moment in replay.moments():
        for name, mask in seen[moment.step].items():
            assert np.array_equal(moment.after[name], mask.reshape(-1).numpy())
    for step in (3, 4, 11, TOTAL):
        past = max((update for update in seen if update <= step), default=None)
        for name, mask in replay.masks_at(step).items():
            assert mask.shape == replay.last.masks[name].shape
            assert past is None or torch.equal(mask, seen[past][name])
    assert [finding.fault for finding in replay.verify()] == [None] * 3
    report = report_history(replay)
    assert (len(seen) == 0) == (method in ("static", "dense"))
    assert report.bytes == len(history_of(tmp_path))
    assert report.bytes <= 1.1 * report.entropy_bytes + 400 * (not seen)


@pytest.mark.parametrize("method", ["granet", "rigl", "snfs"])
def test_stopped_and_killed_runs_end_with_identical_histories(method: str, make: Make, tmp_path: Path) -> None:
    recipe = make(method, save_every="2it")
    train(recipe, RunFolder(tmp_path / "undisturbed"), CPU)
    dice = random.Random(method)
    disturbed = RunFolder(tmp_path / "disturbed")
    with pytest.raises(Kill):
        train(recipe, disturbed, CPU, stop=at_call(dice.randint(2, 9), Kill))
    for _ in range(3):
        with pytest.raises(Kill):
            resume(disturbed, CPU, stop=at_call(dice.randint(2, 6), Kill))
        with pytest.raises(Interrupted):
            resume(disturbed, CPU, stop=at_call(2))
        assert all(finding.fault is None for finding in Replay.open(disturbed.path).verify())
    resume(disturbed, CPU)
    assert history_of(disturbed.path) == history_of(tmp_path / "undisturbed")


def test_a_half_written_update_is_cut_off_on_resume(make: Make, tmp_path: Path, finished: Path) -> None:
    whole, ends = history_of(finished), [entry.end for entry in log.parse(history_of(finished), "").entries]
    folder = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        train(make(keep_every="5it"), folder, CPU, stop=at_call(7))
    (RunFolder(tmp_path).history).write_bytes(whole[: ends[1] + 5])
    replay = Replay.open(tmp_path)
    assert [moment.step for moment in replay.moments()] == [4]
    assert "newest checkpoint stands at step 6 of 18" in replay.notes[0]
    assert "1 update, and one that is being written or was cut short" in replay.notes[1]
    resume(folder, CPU)
    assert history_of(tmp_path) == whole


def test_a_run_without_history_gets_one_from_where_it_is_resumed(make: Make, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        train(make(), folder, CPU, stop=at_call(7))
    (RunFolder(tmp_path).history).unlink()
    with pytest.raises(UsageError, match=r"the run has no history; got no history.bin"):
        Replay.open(tmp_path)
    resume(folder, CPU)
    replay = Replay.open(tmp_path)
    assert (replay.begins_at, replay.whole) == (6, False)
    assert "begins at step 6" in replay.notes[0]
    assert all(finding.fault is None for finding in replay.verify())
    with pytest.raises(UsageError, match="expected 6 to 18"):
        replay.masks_at(5)


def golden_recorder(folder: Path) -> HistoryRecorder:
    """That of a run of version 1, stopped in its second epoch, of which ``folder`` is going to be a copy."""
    shutil.copytree(Path(__file__).parent / "golden/v1/runs/snfs-stopped", folder)
    last = load_outline(folder / "last.safetensors")
    steps_per_epoch = last.progress["steps_per_epoch"]
    return HistoryRecorder.resume(
        RunFolder(folder).history, last.step, last.masks, last.metrics, last.recipe, steps_per_epoch
    )


def test_a_history_of_format_1_is_converted_when_its_run_is_resumed(tmp_path: Path) -> None:
    golden_recorder(tmp_path / "run")
    then = Replay.open(Path(__file__).parent / "golden/v1/runs/snfs-stopped")
    now = Replay.open(tmp_path / "run")
    assert (then.log.version, now.log.version) == (1, 2)
    assert all(finding.fault is None for finding in now.verify())
    for mine, theirs in zip(now.moments(), then.moments(), strict=True):
        assert mine.step == theirs.step
        assert all(np.array_equal(mine.after[name], mask) for name, mask in theirs.after.items())


def test_a_conversion_that_fails_leaves_the_history_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match="could not be written"):
        golden_recorder(tmp_path / "run")
    assert log.parse(history_of(tmp_path / "run"), "test").version == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("place", [40, -30])
def test_a_damaged_history_is_refused(place: int, make: Make, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        train(make(), folder, CPU, stop=at_call(12))
    broken = bytearray(history_of(tmp_path))
    broken[place] ^= 1
    (RunFolder(tmp_path).history).write_bytes(broken)
    with pytest.raises(CheckpointError, match=r"damaged|not a history|does not have the updates"):
        Replay.open(tmp_path)
    with pytest.raises(CheckpointError, match=r"damaged|move it away"):
        resume(folder, CPU)


def test_the_history_of_another_run_is_refused(finished: Path, make: Make, tmp_path: Path) -> None:
    train(make("dense"), RunFolder(tmp_path), CPU)
    (RunFolder(tmp_path).history).write_bytes(history_of(finished))
    with pytest.raises(CheckpointError, match="does not have the updates"):
        Replay.open(tmp_path)


def test_a_new_run_replaces_the_history_of_an_earlier_one(make: Make, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    train(make(), folder, CPU)
    train(make("static"), folder, CPU, overwrite=True)
    assert report_history(Replay.open(tmp_path)).updates == ()
    folder.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_rewound_run_stores_the_masks_that_it_begins_with(finished: Path, tmp_path: Path) -> None:
    parent = finished / "last.safetensors"
    asked = RewindRequest(checkpoint=parent, mode="lr", to="2ep", density=0.05, rounds=2, regrow=True)
    recipe = base_recipe(asked, load_outline(parent))
    data = open_data(recipe)
    planned = plan(asked, recipe, load_outline(parent), data)
    rewind(planned, tmp_path, CPU, dataset=data, watch=lambda _: None, stop=lambda: False)
    for number, density in ((1, 0.1), (2, 0.05)):
        replay = Replay.open(tmp_path / f"round-{number:02d}")
        assert (replay.begins_at, replay.whole) == (12, True)
        assert report_history(replay).before.density == pytest.approx(density, rel=0.001)
        assert all(finding.fault is None for finding in replay.verify())
    with pytest.raises(UsageError, match="round-01"):
        Replay.open(tmp_path)


# Reading


def told(*states: str, steps_per_epoch: int = 10) -> Replay:
    """A history of one layer, whose masks are written as 1 and 0, with an update every 5 steps."""
    masks = [{"fc.weight": np.array([bit == "1" for bit in state])} for state in states]
    data, chain = log.begin(0, {"fc.weight": (1, len(states[0]))}, masks[0], stored=True)
    for number, (before, after) in enumerate(pairwise(masks)):
        frame, chain = log.entry(5 * number + 5, 5 * number, before, after, chain)
        data += frame
    last = torch.from_numpy(masks[-1]["fc.weight"]).view(1, -1)
    checkpoint = Checkpoint(
        weights={"fc.weight": last.float()},
        masks={"fc.weight": last},
        buffers={},
        explored={"fc.weight": torch.ones_like(last)},
        optimizer={},
        accumulators={},
        recipe=Recipe.load("quickstart"),
        step=5 * len(states),
        network=NETWORK,
        progress={"steps_per_epoch": steps_per_epoch, "total_steps": 100},
        metrics={},
    )
    return Replay(folder=Path("run"), last=checkpoint, log=log.parse(data, "test"), initial=masks[0])


def test_overlap_matches_counts_by_hand() -> None:
    report = report_history(told("11110000", "11001000", "11011000", "10011100"))
    assert report.before.density == 0.5
    assert [update.step for update in report.updates] == [5, 10, 15]
    assert [update.epoch for update in report.updates] == [0.5, 1.0, 1.5]
    assert [(u.lost, u.gained, u.regrown) for u in report.updates] == [(2, 1, 0), (0, 1, 1), (1, 1, 0)]
    assert [u.active for u in report.updates] == [3, 4, 4]
    assert [u.churn for u in report.updates] == [1 / 3, 1 / 4, 1 / 4]
    assert [u.explored for u in report.updates] == [5 / 8, 5 / 8, 6 / 8]
    assert [u.initial for u in report.updates] == [2 / 4, 2 / 4, 1 / 4]
    (layer,) = report.layers
    assert (layer.lost, layer.gained, layer.explored, layer.initial) == (3, 3, 6 / 8, 1 / 4)
    assert (layer.first_density, layer.density) == (4 / 8, 4 / 8)


def test_survival_censors_weights_that_are_still_active() -> None:
    # Gained at the first update: two, of which one goes at the second. Gained at the second: one, which stays.
    report = report_history(told("10000", "11100", "11010", "11010"))
    assert [(s.updates, s.observed) for s in report.survival] == [(1, 3), (2, 1)]
    assert [s.share for s in report.survival] == pytest.approx([2 / 3, 2 / 3])
    assert report_history(told("1100", "1010")).survival == ()


def test_a_history_without_changes_has_no_entropy() -> None:
    report = report_history(told("1100", "1100"))
    assert report.updates[0].lost == report.updates[0].gained == 0
    assert report.entropy_bytes == 0
    assert report_history(told("1100")).updates == ()


# The command


def test_the_command_shows_updates_and_layers(finished: Path, granet: Granet) -> None:
    answer = granet("history", finished)
    assert (answer.code, answer.err) == (0, "")
    assert "5 updates in" in answer.out
    assert "18 of 18, finished" in answer.out
    updates, layers = answer.out.split("\n\n")[1:]
    assert [line.split()[0] for line in updates.splitlines()] == ["step", "0", "4", "8", "9", "12", "16"]
    assert [line.split()[0] for line in layers.splitlines()] == ["layer", "fc1", "fc2", "fc3"]


def test_json_is_the_report(finished: Path, granet: Granet) -> None:
    answer = granet("history", finished, "--json", "--verify")
    report = answer.json()
    assert (answer.code, answer.err) == (0, "")
    assert [update["step"] for update in report["updates"]] == [4, 8, 9, 12, 16]
    last = load(finished / "last.safetensors")
    assert report["updates"][-1]["layers"] == {name: int(mask.sum()) for name, mask in last.masks.items()}
    assert report["updates"][-1]["explored"] == last.metrics["updates"][-1]["exploration_rate"]
    assert report["verified"]["ok"]
    names = [finding["what"].split(",")[0] for finding in report["verified"]["findings"]]
    assert {"last.safetensors", "best.safetensors", "step-00000005.safetensors"} <= set(names)


def test_the_masks_of_a_step_are_shown_and_written(finished: Path, granet: Granet, tmp_path: Path) -> None:
    answer = granet("history", finished, "--at", 5, "--masks", tmp_path / "masks.safetensors", "--json")
    kept = load(finished / "step-00000005.safetensors")
    assert answer.json()["active"] == sum(int(mask.sum()) for mask in kept.masks.values())
    written = load_file(tmp_path / "masks.safetensors")
    assert all(torch.equal(written[name], mask) for name, mask in kept.masks.items())
    assert "step 5" in granet("history", finished, "--at", 5).out
    assert granet("history", finished, "--at", 5, "--masks", tmp_path / "masks.safetensors").code == 2


def test_verify_fails_when_a_checkpoint_has_other_masks(make: Make, granet: Granet, tmp_path: Path) -> None:
    train(make("rigl"), RunFolder(tmp_path), CPU)
    best = load(tmp_path / "best.safetensors")
    name, mask = next(iter(best.masks.items()))
    other = mask.clone().view(-1)
    other[other.nonzero()[0]] = False
    weight = best.weights[name] * other.view(mask.shape)
    optimizer = {n: {s: v * other.view(mask.shape) if n == name else v for s, v in slots.items()}
                 for n, slots in best.optimizer.items()}  # fmt: skip
    forged = {**best.masks, name: other.view(mask.shape)}
    save(tmp_path / "best.safetensors", replace(best, masks=forged, weights={**best.weights, name: weight},
                                                optimizer=optimizer))  # fmt: skip
    answer = granet("history", tmp_path, "--verify")
    assert answer.code == 1
    assert f"the mask of {name} is another one" in answer.out
    assert granet("history", tmp_path).code == 0


def test_the_chart_has_four_labelled_panels(finished: Path, granet: Granet, tmp_path: Path) -> None:
    assert granet("history", finished, "--plot", tmp_path / "a.svg").code == 0
    svg = (tmp_path / "a.svg").read_text()
    for text in ("active weights, %", "weights, %", "per active weight, %", "still active, %", "epoch"):
        assert f">{text}<" in svg
    assert granet("history", finished, "--plot", tmp_path / "b.png", "--json").json()["finished"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nothing of this name is there"),
        (["."], "no run here"),
        (["RUN", "--masks", "a"], "this needs a step"),
        (["RUN", "--at", "99"], "expected 0 to 18"),
        (["RUN", "--at", "4", "--verify"], "cannot be combined with"),
        (["RUN", "--overwrite"], "nothing to overwrite"),
        (["RUN", "--plot", "a.gif"], "expected .svg, .png or .pdf"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    message: str,
    finished: Path,
    granet: Granet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = granet("history", *(finished if argument == "RUN" else argument for argument in arguments))
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_a_run_without_checkpoint_is_refused(make: Make, granet: Granet, tmp_path: Path) -> None:
    RunFolder(tmp_path).create(make())
    answer = granet("history", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "no checkpoint yet" in answer.err
