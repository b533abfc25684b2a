"""Rewinding: what each mode restores and keeps, rounds, and that stopping in any of them leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from granet.checkpoint import Checkpoint, content_hash, load, save
from granet.errors import CheckpointError, FileError, Interrupted, RecipeError, UsageError
from granet.masks import mapping as masking
from granet.recipe import Recipe
from granet.recipe.learning_rate import learning_rate
from granet.rewinding.plan import RewindRequest, base_recipe, densities, plan
from granet.rewinding.points import step_of
from granet.rewinding.preview import preview
from granet.rewinding.start_state import pruned, start_state
from granet.training import RunFolder, open_data, resume, train
from granet.training.rounds import resume_rewind, rewind
from granet.training.run import begin, capture
from tests.synthetic import write_image_folder
from tests.tiny import SGD, tiny

CPU = torch.device("cpu")
STEPS, EPOCHS = 5, 4
TOTAL = STEPS * EPOCHS

METHODS = {
    "granet": 'density = 0.4\ninterval = "4it"\nend = "10it"',
    "rigl": 'density = 0.4\ninterval = "4it"',
    "dense": "",
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """A finished run of a method, made once, with a rewind point every 5 steps."""
    root = tmp_path_factory.mktemp("trained")
    images = write_image_folder(root / "images", per_class=22)
    made: dict[tuple[str, str], RunFolder] = {}

    def run(method: str = "granet", optimizer: str = "sgd") -> RunFolder:
        if (method, optimizer) not in made:
            recipe = tiny(
                images,
                method,
                METHODS[method],
                optimizer=SGD if optimizer == "sgd" else f'name = "{optimizer}"',
                schedule='name = "multistep"\nmilestones = ["2ep", "3ep"]',
                training=f'epochs = {EPOCHS}\nbatch_size = 12\nkeep_every = "5it"',
            )
            folder = RunFolder(root / f"{method}-{optimizer}")
            train(recipe, folder, CPU)
            made[method, optimizer] = folder
        return made[method, optimizer]

    return run


def planned(run: RunFolder, mode: Any, **asked: Any) -> Recipe:
    """The recipe of a rewind of the end of ``run``."""
    request = RewindRequest(checkpoint=asked.pop("checkpoint", run.last), mode=mode, **asked)
    outline = load(request.checkpoint)
    recipe = base_recipe(request, outline)
    return plan(request, recipe, outline, open_data(recipe))


def starting(recipe: Recipe) -> Checkpoint:
    return start_state(capture(begin(recipe, open_data(recipe), CPU)))


def never() -> bool:
    return False


def retrained(recipe: Recipe, folder: Path, stop: Callable[[], bool] = never, **more: Any) -> Path:
    rewind(recipe, folder, CPU, dataset=open_data(recipe), watch=lambda _: None, stop=stop, **more)
    return folder


def within(mask: Tensor | None, tensor: Tensor) -> Tensor:
    return tensor if mask is None else tensor * mask


def assert_state_of(start: Checkpoint, source: Checkpoint) -> None:
    """``start`` has the weights, buffers and optimizer slots of ``source``, under its own masks."""
    for name, weight in start.weights.items():
        assert torch.equal(weight, within(start.masks.get(name), source.weights[name])), name
    for name, buffer in start.buffers.items():
        assert torch.equal(buffer, source.buffers[name]), name
    assert start.optimizer.keys() == source.optimizer.keys()
    for name, slots in start.optimizer.items():
        assert slots.keys() == source.optimizer[name].keys()
        for slot, value in slots.items():
            theirs = source.optimizer[name][slot]
            if isinstance(value, Tensor):
                assert isinstance(theirs, Tensor)
                assert torch.equal(value, within(start.masks.get(name) if value.dim() else None, theirs)), (name, slot)
            else:
                assert value == theirs


# What each mode restores and what it keeps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_lr_keeps_weights_and_slots_and_sets_the_clock_back(
    trained: Callable[..., RunFolder], method: str, optimizer: str
) -> None:
    run = trained(method, optimizer)
    end, start = load(run.last), starting(planned(run, "lr", to="1ep", density=0.2))
    assert_state_of(start, end)
    assert start.step == STEPS
    assert [learning_rate(start.recipe, step, STEPS) for step in range(STEPS, TOTAL)] == [
        learning_rate(end.recipe, step, STEPS) for step in range(STEPS, TOTAL)
    ]
    assert start.recipe.total_steps(STEPS) == TOTAL


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_restores_the_whole_state_of_the_point_under_the_masks_of_the_end(
    trained: Callable[..., RunFolder], method: str, optimizer: str
) -> None:
    run = trained(method, optimizer)
    end, start = load(run.last), starting(planned(run, "weights", to="10it", density=0.2))
    assert_state_of(start, load(run.kept(10)))
    assert start.step == 10
    for name, mask in start.masks.items():
        assert torch.equal(mask & end.masks[name], mask)


@pytest.mark.parametrize("method", METHODS)
def test_finetune_keeps_the_clock_and_the_last_learning_rate(trained: Callable[..., RunFolder], method: str) -> None:
    run = trained(method)
    end, start = load(run.last), starting(planned(run, "finetune", to="1ep", density=0.2))
    assert_state_of(start, end)
    assert start.step == TOTAL
    assert start.recipe.total_steps(STEPS) == TOTAL + (TOTAL - STEPS)  # as long as the others
    last = learning_rate(end.recipe, TOTAL - 1, STEPS)
    assert last == pytest.approx(0.01 * 0.01)
    assert {learning_rate(start.recipe, step, STEPS) for step in range(TOTAL, TOTAL + 15)} == {last}
    assert learning_rate(planned(run, "finetune", learning_rate=0.5), TOTAL, STEPS) == 0.5


def test_finetune_of_the_best_epoch_takes_the_last_learning_rate_too(trained: Callable[..., RunFolder]) -> None:
    run = trained()
    recipe = planned(run, "finetune", checkpoint=run.kept(5))
    assert learning_rate(recipe, 5, STEPS) == pytest.approx(0.01 * 0.01)


def test_the_learning_rates_of_the_schedule_are_those_that_were_trained_with(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    for mode, rates in (("lr", [0.01, 0.001, 0.0001]), ("weights", [0.01, 0.001, 0.0001]), ("finetune", [0.0001] * 3)):
        folder = retrained(planned(trained(), mode, to="5it", density=0.2), tmp_path / mode)
        epochs = load(folder / "last.safetensors").metrics["epochs"]
        assert [entry["learning_rate"] for entry in epochs] == pytest.approx(rates), mode


@pytest.mark.parametrize("mode", ["lr", "weights", "finetune"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_masks_lie_within_those_of_the_parent_at_the_density_asked_for(
    trained: Callable[..., RunFolder], mode: str, scope: Any
) -> None:
    run = trained()
    end, start = load(run.last), starting(planned(run, mode, to="5it", density=0.1, scope=scope))
    total = masking.size(end.masks)
    assert sum(masking.active(start.masks).values()) == round(0.1 * total)
    for name, mask in start.masks.items():
        assert not (mask & ~end.masks[name]).any()
        kept, cut = end.weights[name][mask].abs(), end.weights[name][end.masks[name] & ~mask].abs()
        assert not cut.numel() or kept.min() >= cut.max()  # the largest of each layer, whichever the scope
    if scope == "uniform":
        before, after = masking.active(end.masks), masking.active(start.masks)
        assert all(abs(after[name] - before[name] * 0.25) <= 1 for name in before)
    assert start.explored.keys() == start.masks.keys()
    assert all(torch.equal(start.explored[name], mask) for name, mask in start.masks.items())


def test_nothing_is_pruned_when_no_density_is_asked_for(trained: Callable[..., RunFolder]) -> None:
    run = trained()
    end, start = load(run.last), starting(planned(run, "lr"))
    assert all(torch.equal(start.masks[name], mask) for name, mask in end.masks.items())
    assert start.step == 0


def test_weights_rewound_without_pruning_retrace_the_run_of_a_fixed_mask(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """The sharpest test of what is restored: data order, augmentation, clock and state all have to be the same."""
    base = load(trained("dense").last).recipe.with_method("static", density=0.3)[0]
    run = RunFolder(tmp_path / "static")
    train(base, run, CPU)
    child = retrained(planned(run, "weights", to="10it"), tmp_path / "again")
    mine, theirs = load(run.last), load(child / "last.safetensors")
    assert theirs.step == mine.step
    for name, weight in mine.weights.items():
        assert torch.equal(weight, theirs.weights[name]), name
    assert mine.metrics["test"] == theirs.metrics["test"]
    assert [entry["epoch"] for entry in theirs.metrics["epochs"]] == [3, 4]


def test_a_rewind_point_may_be_within_an_epoch(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = trained()
    folder = retrained(planned(run, "lr", to="7it", density=0.2), tmp_path / "lr")
    epochs = load(folder / "last.safetensors").metrics["epochs"]
    assert [(entry["epoch"], entry["step"]) for entry in epochs] == [(2, 10), (3, 15), (4, 20)]
    folder = retrained(planned(run, "finetune", to="13it", density=0.2), tmp_path / "finetune")
    epochs = load(folder / "last.safetensors").metrics["epochs"]
    assert [(entry["epoch"], entry["step"]) for entry in epochs] == [(5, 25), (6, 27)]


@pytest.mark.parametrize(("regrow", "moves"), [(False, False), (True, True)])
def test_topology_moves_only_with_regrow(
    trained: Callable[..., RunFolder], tmp_path: Path, regrow: bool, moves: bool
) -> None:
    recipe = planned(trained(), "lr", density=0.2, regrow=regrow)
    start = starting(recipe)
    end = load(retrained(recipe, tmp_path / "out") / "last.safetensors")
    assert sum(masking.active(end.masks).values()) == sum(masking.active(start.masks).values())
    moved = any(not torch.equal(mask, start.masks[name]) for name, mask in end.masks.items())
    assert moved is moves
    assert [entry["step"] for entry in end.metrics["updates"]] == ([4, 8, 12, 16] if moves else [])


def test_layers_that_the_parent_left_dense_stay_whole_or_become_masked(trained: Callable[..., RunFolder]) -> None:
    run = trained("dense")
    recipe = planned(run, "lr", density=0.5, settings={"method.dense": '["conv1.weight"]'})
    start = starting(recipe)
    assert "conv1.weight" not in start.masks
    assert torch.equal(start.weights["conv1.weight"], load(run.last).weights["conv1.weight"])


# Lineage


def test_the_lineage_is_in_every_checkpoint(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = trained()
    folder = retrained(planned(run, "lr", to="3ep", density=0.1, rounds=2), tmp_path / "out")
    last = load(folder / "round-02" / "best.safetensors")
    oldest, parent = last.metrics["lineage"]
    assert oldest["hash"] == content_hash(run.last)
    assert oldest["method"] == "granet"
    assert parent["hash"] == content_hash(folder / "round-01" / "last.safetensors")
    assert (parent["mode"], parent["round"], parent["step"]) == ("lr", 1, TOTAL)
    assert last.recipe.rewind is not None
    assert last.recipe.rewind.parent_hash == parent["hash"]


def test_a_rewind_is_rewound_again_from_points_of_its_ancestors(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = trained()
    child = RunFolder(retrained(planned(run, "weights", to="3ep", density=0.2), tmp_path / "child"))
    assert child.kept_steps() == []
    grandchild = planned(child, "weights", to="10it", density=0.1)
    assert grandchild.rewind is not None
    assert grandchild.rewind.point == str(run.kept(10))


# Rounds


def test_rounds_prune_in_equal_shares_and_their_masks_are_nested(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = trained()
    for mode, to in (("lr", "3ep"), ("weights", "15it"), ("finetune", "3ep")):
        folder = retrained(planned(run, mode, to=to, density=0.1, rate=0.5), tmp_path / mode)
        ends = [load(run.last), *(load(runs.last) for runs in RunFolder(folder).rounds())]
        assert len(ends) == 3
        total = masking.size(ends[0].masks)
        assert [sum(masking.active(end.masks).values()) for end in ends] == [
            round(0.4 * total),
            round(0.2 * total),
            round(0.1 * total),
        ]
        for earlier, later in pairwise(ends):
            assert not any((later.masks[name] & ~mask).any() for name, mask in earlier.masks.items())
        table = json.loads((folder / "rounds.json").read_text())
        assert [row["test_accuracy"] for row in table] == [end.metrics["test"]["accuracy"] for end in ends[1:]]
        expected = [25, 30] if mode == "finetune" else [20, 20]
        assert [row["step"] for row in table] == expected


@given(
    present=st.floats(0.01, 1),
    share=st.floats(0.05, 1),
    rounds=st.integers(1, 12),
    rate=st.floats(0.05, 0.9),
)
def test_densities_fall_to_the_one_asked_for(present: float, share: float, rounds: int, rate: float) -> None:
    target = present * share
    by_rounds = densities(present, target, rounds, None)
    assert len(by_rounds) == rounds
    assert by_rounds[-1] == target
    ratios = [after / before for before, after in pairwise([present, *by_rounds])]
    assert max(ratios) == pytest.approx(min(ratios))
    by_rate = densities(present, target, None, rate)
    assert by_rate[-1] == target
    steps = pairwise([present, *by_rate[:-1]])
    assert all(after == pytest.approx(before * (1 - rate)) for before, after in steps)
    assert len(by_rate) == 1 or by_rate[-2] > target
    assert densities(present, None, rounds, rate)[-1] == pytest.approx(present * (1 - rate) ** rounds)
    assert densities(present, target, None, None) == [target]


def test_the_papers_rounds(trained: Callable[..., RunFolder]) -> None:
    assert densities(1.0, 0.8**10, None, 0.2) == pytest.approx([0.8**k for k in range(1, 11)])


# Stopping


class Kill(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int) -> Callable[[], bool]:
    calls = iter(range(1, 10_000))

    def stop() -> bool:
        if next(calls) == step:
            raise Kill
        return False

    return stop


def stopped_at(step: int) -> Callable[[], bool]:
    calls = iter(range(1, 10_000))
    return lambda: next(calls) >= step


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "metrics.jsonl"  # which has times in it
    }


@pytest.mark.parametrize("mode", ["lr", "weights", "finetune"])
def test_killed_in_any_round_it_resumes_to_a_byte_identical_end(
    trained: Callable[..., RunFolder], tmp_path: Path, mode: str
) -> None:
    recipe = planned(trained(), mode, to="15it", density=0.1, rounds=3)
    folder = tmp_path / "out"
    whole = files(retrained(recipe, folder))
    for kill in (1, 4, 9, 13, 19):
        shutil.rmtree(folder)
        with pytest.raises(Kill):
            retrained(recipe, folder, killed_at(kill))
        for step in (2, 3):  # and again, once killed and once told to stop
            with pytest.raises((Kill, Interrupted)):
                resume_rewind(folder, CPU, watch=lambda _: None, stop=(killed_at if step == 2 else stopped_at)(step))
        resume_rewind(folder, CPU, watch=lambda _: None, stop=never)
        assert files(folder) == whole, kill


def test_a_rewind_of_one_round_is_a_run_like_any_other(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    recipe = planned(trained(), "lr", to="2ep", density=0.1)
    whole = files(retrained(recipe, tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Interrupted):
        retrained(recipe, tmp_path / "out", stopped_at(3))
    resume(RunFolder(tmp_path / "out"), CPU)
    assert files(tmp_path / "out") == whole
    train(Recipe.load(tmp_path / "out" / "recipe.toml"), RunFolder(tmp_path / "again"), CPU)
    assert files(tmp_path / "again") == whole


def test_a_run_that_died_before_its_first_save_starts_from_its_parent_again(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    recipe = planned(trained(), "lr", to="3ep", density=0.1)
    whole = files(retrained(recipe, tmp_path / "out"))
    folder = RunFolder(tmp_path / "died")
    folder.create(recipe)
    resume(folder, CPU)
    assert files(folder.path) == whole


def test_a_state_survives_its_file(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    start = starting(planned(trained(), "weights", to="10it", density=0.1))
    save(tmp_path / "start.safetensors", start)
    assert_state_of(load(tmp_path / "start.safetensors"), start)


# Refusals


def test_a_parent_that_changed_is_refused(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(trained().path, tmp_path / "run"))
    recipe = planned(run, "weights", to="10it", density=0.1)
    changed = load(run.last)
    save(run.last, replace(changed, metrics={**changed.metrics, "note": 1}))
    with pytest.raises(CheckpointError, match="changed since"):
        retrained(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_rewind_point_is_reported_with_those_that_exist(trained: Callable[..., RunFolder]) -> None:
    with pytest.raises(UsageError, match=r"no rewind point .* got step 7 .* 0it \(0ep\), 5it \(1ep\), 10it"):
        planned(trained(), "weights", to="7it")
    with pytest.raises(UsageError, match=r"not said; expected one of 0it \(0ep\), 5it"):
        planned(trained(), "weights")


def test_without_rewind_points_keeping_some_is_advised(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    shutil.copy(trained().last, tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="Train with --keep-every"):
        planned(trained(), "weights", to="5it", checkpoint=tmp_path / "alone.safetensors")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"density": 0.5}, "sparser than that; got 0.5; expected at most 0.4"),
        ({"density": 0.0}, "--density: not a density"),
        ({"density": 1e-9}, "every layer keeps at least one"),
        ({"rate": 1.0, "density": 0.1}, "--rate: not a share"),
        ({"rate": 0.0, "density": 0.1}, "--rate: not a share"),
        ({"rate": float("nan"), "density": 0.1}, "--rate: not a share"),
        ({"rate": 1e-5, "density": 0.1}, "too many rounds"),
        ({"rounds": 0, "density": 0.1}, "--rounds: out of range"),
        ({"rounds": 3}, "the final density is not determined"),
        ({"rounds": 3, "rate": 0.2, "density": 0.1}, "give at most two of them"),
        ({"to": "4ep"}, "not before the end"),
        ({"to": "1.5"}, "not a time to go back to"),
        ({"to": "soon"}, "not a duration"),
        ({"rate": 1e-17, "density": 0.1}, "too many rounds"),
        ({"learning_rate": 0.1}, "follows the schedule"),
        ({"learning_rate": 0.0}, "--lr: out of range"),
        ({"learning_rate": float("nan")}, "--lr: out of range"),
        ({"settings": {"training.epochs": "9"}}, "a rewind cannot change this setting"),
        ({"settings": {"method.density": "0.1"}}, "not a setting of a rewind"),
        ({"regrow": True, "settings": {"method.interval": "100it"}}, "the interval yields no update"),
        ({"recipe": Recipe.load("quickstart")}, "a recipe of its own"),
    ],
)
def test_impossible_requests_are_refused(
    trained: Callable[..., RunFolder], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, RecipeError), match=message):
        planned(trained(), "lr", **asked)


def test_a_share_of_the_training_is_a_time() -> None:
    assert [step_of(to, 200, 10) for to in ("0", "0.25", "3ep", "7it")] == [0, 50, 30, 7]


def test_nothing_is_overwritten(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    recipe = planned(trained(), "lr", to="3ep", density=0.1)
    rounds = planned(trained(), "lr", to="3ep", density=0.1, rounds=2)
    retrained(recipe, tmp_path / "run")
    retrained(rounds, tmp_path / "rounds")
    for folder in ("run", "rounds"):
        before = files(tmp_path / folder)
        for another in (recipe, rounds):
            with pytest.raises(UsageError, match="already holds"):
                retrained(another, tmp_path / folder)
        assert files(tmp_path / folder) == before
    retrained(recipe, tmp_path / "rounds", overwrite=True)
    assert files(tmp_path / "rounds") == files(tmp_path / "run")


@pytest.mark.parametrize("rounds", [None, 2])
def test_a_rewind_that_cannot_start_leaves_what_it_was_to_replace(
    trained: Callable[..., RunFolder], tmp_path: Path, rounds: int | None
) -> None:
    run = RunFolder(shutil.copytree(trained().path, tmp_path / "run"))
    good = planned(run, "lr", to="3ep", density=0.1, rounds=rounds)
    retrained(good, tmp_path / "out")
    before = files(tmp_path / "out")
    save(run.last, replace(load(run.last), metrics={}))
    with pytest.raises(CheckpointError, match="changed since"):
        retrained(good, tmp_path / "out", overwrite=True)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("rounds", [None, 2])
def test_another_process_at_work_is_never_overwritten(
    trained: Callable[..., RunFolder], tmp_path: Path, rounds: int | None
) -> None:
    out = RunFolder(retrained(planned(trained(), "lr", to="3ep", density=0.1, rounds=rounds), tmp_path / "out"))
    before = files(out.path)
    for busy in (out, *out.rounds()):
        with busy.claimed():
            for again in (None, 2):
                with pytest.raises(UsageError, match="another process"):
                    retrained(planned(trained(), "lr", to="3ep", rounds=again, density=0.2), out.path, overwrite=True)
    assert files(out.path) == before


def test_a_run_does_not_go_into_a_folder_of_rounds(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = retrained(planned(trained(), "lr", to="3ep", density=0.1, rounds=2), tmp_path / "out")
    with pytest.raises(UsageError, match="holds the rounds of a rewind"):
        train(load(trained().last).recipe, RunFolder(folder), CPU)


def test_a_run_that_is_not_of_this_rewind_does_not_count_as_a_round(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    folder = retrained(planned(trained(), "lr", to="3ep", density=0.1, rounds=2), tmp_path / "out")
    shutil.rmtree(folder / "round-02")
    shutil.copytree(trained().path, folder / "round-02")
    with pytest.raises(CheckpointError, match="not a round of this rewind"):
        resume_rewind(folder, CPU, watch=lambda _: None, stop=never)
    shutil.rmtree(folder / "round-02")
    resume_rewind(folder, CPU, watch=lambda _: None, stop=never)
    (folder / "round-01" / "best.safetensors").unlink()
    with pytest.raises(FileError, match=r"best\.safetensors"):
        resume_rewind(folder, CPU, watch=lambda _: None, stop=never)


def test_points_of_other_runs_and_later_ones_are_refused(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(trained().path, tmp_path / "run"))
    shutil.copy(trained("granet", "adamw").kept(10), run.kept(10))
    with pytest.raises(CheckpointError, match=r"of another run; got optimizer\.name differs"):
        planned(run, "weights", to="10it")
    shutil.copy(run.kept(5), run.kept(10))
    with pytest.raises(CheckpointError, match="not of the step in its name"):
        planned(run, "weights", to="10it")
    with pytest.raises(UsageError, match="later than the checkpoint"):
        planned(run, "weights", to="15it", checkpoint=run.kept(5))


def test_layers_of_a_pruned_network_cannot_be_made_dense(trained: Callable[..., RunFolder]) -> None:
    with pytest.raises(UsageError, match="settled once a network is pruned"):
        planned(trained(), "lr", settings={"method.dense": '["fc"]'})


def test_the_recipe_of_a_rewind_is_repeated_and_not_varied(trained: Callable[..., RunFolder]) -> None:
    recipe = planned(trained(), "lr", density=0.1)
    with pytest.raises(RecipeError, match="not the density that the run is rewound to"):
        recipe.override({"method.density": 0.3})
    with pytest.raises(RecipeError, match="a rewound run keeps its density"):
        recipe.with_method("granet", interval="4it", end="10it")
    with pytest.raises(RecipeError, match="the length of a rewound run cannot be changed"):
        recipe.stretched(50)


def test_another_network_is_refused(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    recipe = planned(trained(), "lr", density=0.1).override({"model.name": "resnet20"})
    with pytest.raises(CheckpointError, match="belongs to another network"):
        retrained(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_imported_weights_need_a_recipe_to_be_rewound(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    """An imported checkpoint has weights and masks and no past."""
    whole = load(trained().last)
    bare = replace(whole, optimizer={}, progress={}, step=0, metrics={"epochs": [], "updates": [], "imported": {}})
    save(tmp_path / "imported.safetensors", bare)
    ask = partial(planned, trained(), checkpoint=tmp_path / "imported.safetensors", density=0.1)
    with pytest.raises(UsageError, match="no clock to set back"):
        ask("lr")
    start = starting(ask("lr", recipe=whole.recipe, to="2ep"))
    assert start.step == 2 * STEPS
    assert_state_of(start, bare)
    folder = retrained(ask("finetune", to="3ep"), tmp_path / "out")
    assert load(folder / "last.safetensors").metrics["test"]


# The preview


def test_the_preview_equals_what_is_trained(trained: Callable[..., RunFolder], tmp_path: Path) -> None:
    recipe = planned(trained(), "lr", to="2ep", density=0.1, rounds=2)
    run = begin(recipe, open_data(recipe), CPU)
    plans = preview(run.model, capture(run))
    rows = rewind(recipe, tmp_path / "out", CPU, dataset=open_data(recipe), watch=lambda _: None, stop=never)
    assert [(entry.density, entry.active, entry.start + entry.steps) for entry in plans] == [
        (row.density, row.active, row.step) for row in rows
    ]
    for entry, row in zip(plans, rows, strict=True):
        assert (entry.first_learning_rate, entry.last_learning_rate) == pytest.approx((0.001, 0.0001))
        assert entry.bytes == pytest.approx(2 * row.bytes, rel=0.05)
    assert plans[0].training_flops > plans[1].training_flops > 0


def test_the_preview_counts_a_dense_gradient_at_every_step_of_gradient_momentum(
    trained: Callable[..., RunFolder],
) -> None:
    def training_flops(growth: str) -> float:
        settings = {"method.growth": growth, "method.interval": "1ep"}
        recipe = planned(trained(), "lr", to="2ep", density=0.1, regrow=True, settings=settings)
        run = begin(recipe, open_data(recipe), CPU)
        return preview(run.model, capture(run))[0].training_flops

    assert training_flops("momentum") > training_flops("gradient")


def test_uniform_pruning_leaves_no_layer_empty() -> None:
    weights = {"a": torch.arange(1.0, 5.0), "b": torch.arange(1.0, 101.0)}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    assert masking.active(pruned(weights, masks, 0.05, "uniform")) == {"a": 1, "b": 4}
    assert masking.active(pruned(weights, masks, 0.05, "global")) == {"a": 1, "b": 4}
