"""Training through the library's door: what a run leaves behind, and that stopping leaves no trace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from granet.checkpoint import load, save
from granet.errors import CheckpointError, DataError, Interrupted, TrainingError, UsageError
from granet.methods import METHODS
from granet.recipe import Recipe
from granet.runs import events as told
from granet.training import Evaluation, RunFolder, resume, train
from tests.synthetic import write_image_folder
from tests.tiny import SGD, tiny

CPU = torch.device("cpu")
STEPS_PER_EPOCH, EPOCHS = 6, 3
TOTAL = STEPS_PER_EPOCH * EPOCHS
INTERVAL = 4


SETTINGS: dict[str, str] = {
    "granet": f'density = 0.2\ninterval = "{INTERVAL}it"\nend = "9it"',
    "granet-uniform": f'density = 0.2\ninitial_density = 0.6\ninterval = "{INTERVAL}it"\nend = "9it"',
    "rigl": f'density = 0.3\ninterval = "{INTERVAL}it"',
    "rigl-itop": f'density = 0.3\ninterval = "{INTERVAL}it"\ngrowth = "momentum"',
    "set": f'density = 0.3\ninterval = "{INTERVAL}it"',
    "snfs": f'density = 0.3\ninterval = "{INTERVAL}it"',
    "gmp": f'density = 0.2\ninterval = "{INTERVAL}it"\nend = "9it"',
    "gmp-uniform": f'density = 0.4\ninterval = "{INTERVAL}it"\nend = "9it"\nfirst_dense = false',
    "static": "density = 0.3",
    "dense": "",
}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), per_class=14)


@pytest.fixture
def recipe(images: Path) -> Callable[..., Recipe]:
    def make(method: str = "granet", optimizer: str = SGD, **settings: str) -> Recipe:
        training = f"epochs = {EPOCHS}\nbatch_size = 6"
        return tiny(images, method, SETTINGS[method], optimizer=optimizer, training=training).override(settings)

    return make


def whole(recipe: Recipe, folder: Path) -> RunFolder:
    runs = RunFolder(folder)
    train(recipe, runs, CPU)
    return runs


def same_end(one: RunFolder, other: RunFolder) -> bool:
    return all(
        getattr(one, file).read_bytes() == getattr(other, file).read_bytes() for file in ("last", "best", "recipe_file")
    )


class Kill(BaseException):
    """Stands for the end of the process: nobody catches it and nothing is saved."""


def killed_at(step: int) -> Callable[[], bool]:
    calls = -1  # the first question comes before the first step

    def stop() -> bool:
        nonlocal calls
        calls += 1
        if calls == step:
            raise Kill
        return False

    return stop


def stopped_at(step: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= step


def test_a_run_writes_the_documented_files(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    events: list[told.Event] = []
    runs = RunFolder(tmp_path / "run")
    result = train(recipe(), runs, CPU, watch=events.append)

    assert Recipe.load(str(runs.recipe_file)) == recipe()
    last, best = load(runs.last), load(runs.best)
    assert last.step == TOTAL
    assert result == Evaluation(**{key: last.metrics["test"][key] for key in ("loss", "accuracy", "examples")})
    assert best.step == last.metrics["best"]["step"]
    for checkpoint in (last, best):
        weights = sum(mask.numel() for mask in checkpoint.masks.values())
        assert sum(int(mask.sum()) for mask in checkpoint.masks.values()) == round(0.2 * weights)
        assert all(not checkpoint.weights[name][~mask].any() for name, mask in checkpoint.masks.items())

    lines = [json.loads(line) for line in runs.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "update"] == [4, 8, 9, 12, 16]
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2, 3]
    assert [line["accuracy"] for line in lines if line["event"] == "test"] == [result.accuracy]
    kinds = [type(event) for event in events]
    assert kinds[0] is told.Started
    assert kinds[-1] is told.Tested
    assert kinds.count(told.EpochEnded) == EPOCHS
    assert {event.update.step for event in events if isinstance(event, told.Updated)} == {4, 8, 9, 12, 16}


def test_best_is_chosen_at_the_final_density_only(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    events: list[told.Event] = []
    train(recipe(), RunFolder(tmp_path), CPU, watch=events.append)
    ends = [event for event in events if isinstance(event, told.EpochEnded)]
    assert ends[0].density > 0.21
    assert not ends[0].best
    assert ends[1].best


def test_a_run_is_a_function_of_its_recipe(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    one, same = whole(recipe(), tmp_path / "one"), whole(recipe(), tmp_path / "same")
    other = whole(recipe(seed="1"), tmp_path / "other")
    assert same_end(one, same)
    assert not same_end(one, other)


@pytest.mark.parametrize("optimizer", ['name = "sgd"\nmomentum = 0.9', 'name = "adamw"'], ids=["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_stopping_anywhere_leaves_no_trace(
    method: str, optimizer: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    # Batch norms once for each method; what an optimizer keeps does not depend on them.
    network = {"model.name": "lenet-300-100"} if "adamw" in optimizer else {}
    tiny = recipe(method, optimizer, **network)
    undisturbed = whole(tiny, tmp_path / "undisturbed")
    runs = RunFolder(tmp_path / "disturbed")
    # In the middle of an epoch, just before an update, at it, just after it, and at the end of an epoch.
    stops = (2, INTERVAL - 1, INTERVAL, INTERVAL + 1, STEPS_PER_EPOCH)
    with pytest.raises(Interrupted):
        train(tiny, runs, CPU, stop=stopped_at(stops[0]))
    for before, step in pairwise(stops):
        assert load(runs.last).step == before
        with pytest.raises(Interrupted):
            resume(runs, CPU, stop=stopped_at(step - before))
    resume(runs, CPU)
    assert same_end(runs, undisturbed)


@pytest.mark.parametrize("method", METHODS)
def test_being_killed_anywhere_leaves_no_trace(method: str, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    frequent = recipe(method, **{"training.save_every": "2it"})
    undisturbed = whole(frequent, tmp_path / "undisturbed")
    dice, runs = random.Random(method), RunFolder(tmp_path / "killed")
    with pytest.raises(Kill):
        train(frequent, runs, CPU, stop=killed_at(dice.randint(1, 9)))
    for _ in range(3):
        with pytest.raises(Kill):
            resume(runs, CPU, stop=killed_at(dice.randint(2, 5)))
    resume(runs, CPU)
    assert same_end(runs, undisturbed)
    lines = [json.loads(line) for line in runs.metrics_file.read_text().splitlines()]
    entries = [(line["event"], line["step"]) for line in lines]
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("optimizer", ['name = "adamw"', 'name = "adam"', 'name = "rmsprop"\nmomentum = 0.5'])
def test_other_optimizers_resume_too(optimizer: str, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    settings = {"optimizer.decay_norms_and_biases": "false", "training.accumulate": "3"}
    undisturbed = whole(recipe(optimizer=optimizer, **settings), tmp_path / "undisturbed")
    runs = RunFolder(tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(recipe(optimizer=optimizer, **settings), runs, CPU, stop=stopped_at(9))
    resume(runs, CPU)
    assert same_end(runs, undisturbed)


@pytest.mark.parametrize("part", ["masks", "explored", "optimizer", "accumulators", "progress", "step"])
def test_every_part_of_the_state_matters(part: str, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The tests above are not vacuous: a run resumed from a state that lacks one part ends elsewhere."""
    undisturbed = whole(recipe("snfs"), tmp_path / "undisturbed")
    runs = RunFolder(tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(recipe("snfs"), runs, CPU, stop=stopped_at(5))
    state = load(runs.last)
    fresh = {
        "masks": {name: torch.ones_like(mask) for name, mask in state.masks.items()},
        "explored": {name: mask.clone() for name, mask in state.masks.items()},
        "optimizer": {},
        "accumulators": {name: torch.zeros_like(tensor) for name, tensor in state.accumulators.items()},
        "progress": state.progress | {"epoch_loss": 0.0},
        "step": 4,
    }
    changes = {part: fresh[part]} | ({"explored": fresh["masks"]} if part == "masks" else {})
    save(runs.last, replace(state, **changes))
    resume(runs, CPU)
    assert not same_end(runs, undisturbed)


def test_a_run_killed_before_its_first_checkpoint_begins_again(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    undisturbed = whole(recipe(), tmp_path / "undisturbed")
    runs = RunFolder(tmp_path / "killed")
    runs.create(recipe())
    resume(runs, CPU)
    assert same_end(runs, undisturbed)


def test_resuming_a_finished_run_changes_nothing(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = whole(recipe(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert resume(runs, CPU).examples == 42
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_holds_a_run_is_safe(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = whole(recipe(), tmp_path)
    before = runs.last.read_bytes()
    with pytest.raises(UsageError, match=r"already holds a run.*--resume"):
        train(recipe(), runs, CPU)
    assert runs.last.read_bytes() == before


def test_mistakes_are_found_before_anything_is_written(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for settings, message in (
        ({"method.end": "99ep"}, "prune window ends past the end"),
        ({"method.interval": "50it"}, "no update"),
        ({"training.batch_size": "1000"}, "batch"),
        (
            {"training.batch_size": "1", "data.image_size": "4"},
            r"batch_size: .* on one image at a time; .*larger batch",
        ),
        ({"training.accumulate": "6", "data.image_size": "4"}, "accumulate: .* on one image at a time; .*fewer parts"),
        ({"method.dense": '["nowhere"]'}, "nowhere"),
        ({"model.name": "resnet9"}, "resnet8"),
    ):
        with pytest.raises(UsageError, match=message):
            train(recipe(**settings), RunFolder(tmp_path / "run"), CPU)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_intact(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    runs = RunFolder(tmp_path)
    saved: list[int] = []
    with pytest.raises(TrainingError, match=r"not finite.*last.safetensors, is intact"):
        train(
            recipe(**{"optimizer.learning_rate": "1000.0", "optimizer.weight_decay": "1000.0"}),
            runs,
            CPU,
            watch=lambda event: saved.append(event.step) if isinstance(event, told.Saved) else None,
        )
    assert load(runs.last).step == saved[-1]


def test_other_data_are_refused_on_resume(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(recipe(), runs, CPU, stop=stopped_at(3))
    fewer = write_image_folder(tmp_path / "fewer", per_class=10)
    with pytest.raises(CheckpointError, match="not those of this run"):
        resume(runs, CPU, directory=fewer)
    moved = write_image_folder(tmp_path / "moved", per_class=14)
    resume(runs, CPU, directory=moved)


def test_resuming_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        resume(RunFolder(tmp_path), CPU)


def test_an_imported_checkpoint_cannot_be_resumed(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = whole(recipe("static"), tmp_path)
    save(runs.last, replace(load(runs.last), progress={}))
    with pytest.raises(CheckpointError, match="not the state of a run"):
        resume(runs, CPU)


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from granet.training import run as state

    begin, steps = state.build_optimizer, iter(range(100))

    def spoiling(*arguments):  # a finite loss with a gradient that is not
        optimizer = begin(*arguments)
        bias = optimizer.param_groups[0]["params"][-1]
        bias.register_hook(lambda gradient: gradient * (float("nan") if next(steps) == 4 else 1.0))
        return optimizer

    monkeypatch.setattr(state, "build_optimizer", spoiling)
    runs = RunFolder(tmp_path)
    with pytest.raises(TrainingError, match="not finite"):
        train(recipe("static", **{"training.save_every": "1it"}), runs, CPU)
    last = load(runs.last)
    assert last.step == 4
    assert all(weight.isfinite().all() for weight in last.weights.values())


def test_only_one_process_trains_in_a_folder(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = RunFolder(tmp_path / "run")
    with runs.claimed(), pytest.raises(UsageError, match="another process is training"):
        train(recipe(), runs, CPU)
    train(recipe(), runs, CPU)


def test_checkpoints_left_over_by_a_kill_are_removed_on_resume(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The end of the process may come after a save is safe and before what it replaces is removed."""
    keeping = recipe(**{"training.keep_last": "1", "training.keep_every": "12it"})
    runs = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        train(keeping, runs, CPU, stop=stopped_at(STEPS_PER_EPOCH))
    for kept in ([0, 6], [0, 3, 6, 99]):  # 99 is of a future that a kill undid
        for step in kept:
            runs.kept(step).write_bytes(runs.last.read_bytes())
        with pytest.raises(Interrupted):
            resume(runs, CPU, stop=lambda: True)
    assert runs.kept_steps() == [0, 6, 99]
    with pytest.raises(Interrupted):
        resume(runs, CPU, stop=stopped_at(1))
    assert runs.kept_steps() == [0, 6, 99]  # a state that is not kept itself replaces none


def test_a_stop_before_the_first_step_is_obeyed(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    undisturbed = whole(recipe(), tmp_path / "undisturbed")
    runs = RunFolder(tmp_path / "stopped")
    with pytest.raises(Interrupted, match="step 0 of"):
        train(recipe(), runs, CPU, stop=lambda: True)
    assert load(runs.last).step == 0
    resume(runs, CPU)
    assert same_end(runs, undisturbed)


def test_a_test_that_was_not_saved_is_not_recorded_twice(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = whole(recipe(), tmp_path)
    state = load(runs.last)
    del state.metrics["test"]
    save(runs.last, state)
    resume(runs, CPU)
    events = [json.loads(line)["event"] for line in runs.metrics_file.read_text().splitlines()]
    assert events.count("test") == 1


def test_the_state_is_saved_when_a_signal_also_ends_the_workers(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from granet.training import launch

    undisturbed = whole(recipe(), tmp_path / "undisturbed")
    begin, signalled = launch.begin, []

    def dying(*arguments, **settings):
        run = begin(*arguments, **settings)
        batches = run.pipeline.batches

        def until_signalled(epoch: int, *, start: int = 0):
            for number, batch in enumerate(batches(epoch, start=start)):
                if number == 3:
                    signalled.append(True)
                    raise DataError("a worker process has died")
                yield batch

        monkeypatch.setattr(run.pipeline, "batches", until_signalled)
        return run

    runs = RunFolder(tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(launch, "begin", dying)
        with pytest.raises(Interrupted, match="step 3 of"):
            train(recipe(), runs, CPU, stop=lambda: bool(signalled))
    resume(runs, CPU)
    assert same_end(runs, undisturbed)
