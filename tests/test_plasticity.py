"""Pruning plasticity: what a cell is, that stopping leaves no trace, and the command."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from granet.checkpoint import Checkpoint, load, save
from granet.errors import CheckpointError, GranetError, Interrupted, UsageError
from granet.masks.mapping import active, density
from granet.plasticity import cell as cells
from granet.plasticity import experiment
from granet.plasticity.cell import baseline, measure, prepare, regenerated
from granet.plasticity.grid import Grid, GridSettings, Job, plan
from granet.plasticity.report import summarise
from granet.plasticity.results import Cell, read, write
from granet.recipe import Recipe
from granet.rewinding.plan import RewindRequest, base_recipe
from granet.rewinding.plan import plan as plan_rewind
from granet.training import RunFolder, open_data, train
from granet.training.rounds import rewind
from tests.commandline import Granet
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
STEPS, EPOCHS = 5, 4
RATES = [0.5, 0.9]
METHODS = {"dense": "", "granet": 'density = 0.3\ninterval = "4it"\nend = "10it"'}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished run that kept a checkpoint every 8 steps, made once for each method, seed and learning rate."""
    root = tmp_path_factory.mktemp("plasticity")
    images = write_image_folder(root / "images", per_class=22)
    made: dict[tuple[str, int, float], Path] = {}

    def run(method: str = "dense", seed: int = 0, learning_rate: float = 0.01) -> Path:
        key = (method, seed, learning_rate)
        if key not in made:
            recipe = Recipe.from_toml(f"""
                name = "tiny"
                seed = {seed}
                [model]
                name = "resnet8"
                [data]
                name = "image-folder"
                directory = "{images}"
                augment = "crop-flip"
                validation = 0.2
                [method]
                name = "{method}"
                {METHODS[method]}
                [optimizer]
                name = "sgd"
                momentum = 0.9
                learning_rate = {learning_rate}
                [schedule]
                name = "multistep"
                milestones = ["2ep"]
                [training]
                epochs = {EPOCHS}
                batch_size = 10
                keep_every = "8it"
            """)
            made[key] = root / f"{method}-{seed}-{learning_rate}"
            train(recipe, RunFolder(made[key]), CPU)
        return made[key]

    return run


@pytest.fixture
def dense(trained: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the dense run, to write into."""
    return shutil.copytree(trained(), tmp_path / "dense")


def job(checkpoint: Path, rate: float = 0.5, kind: str = "none", **settings: Any) -> Job:
    return plan([str(checkpoint)], GridSettings(**({"epochs": 1} | settings)), [rate], [kind]).jobs[0]


def kept(run: Path, step: int = 8) -> Path:
    return RunFolder(run).kept(step)


def mapped(values: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in values.items()}


# What a cell is


WEIGHTS = {"a": torch.tensor([9.0, 0.0, 3.0, 0.0, 5.0, 0.0]), "b": torch.tensor([0.0, 7.0])}
GRADIENTS = {"a": torch.tensor([9.0, 1.0, 8.0, -4.0, 0.0, 3.0]), "b": torch.tensor([-2.0, 1.0])}
PRUNED = {"a": torch.tensor([1, 0, 1, 0, 1, 0]).bool(), "b": torch.tensor([0, 1]).bool()}


def test_as_many_grow_in_each_layer_as_it_lost_where_gradients_are_largest() -> None:
    masks = regenerated(WEIGHTS, GRADIENTS, PRUNED, {"a": 2, "b": 1}, share=None)
    assert masks["a"].tolist() == [True, False, True, True, True, True]
    assert masks["b"].tolist() == [True, True]


def test_a_swap_drops_the_smallest_share_of_each_layer_and_grows_as_many() -> None:
    masks = regenerated(WEIGHTS, GRADIENTS, PRUNED, {"a": 2, "b": 1}, share=0.5)
    # of a two of three go, 3 and 5; then |gradient| 8 and 4 grow, the first of which has just gone
    assert masks["a"].tolist() == [True, False, True, True, False, False]
    assert masks["b"].tolist() == [True, False]


def test_a_swap_leaves_a_layer_alone_that_is_wholly_active() -> None:
    full = {name: torch.ones_like(mask) for name, mask in PRUNED.items()}
    masks = regenerated(WEIGHTS, GRADIENTS, full, {"a": 0, "b": 0}, share=0.5)
    assert all(torch.equal(masks[name], full[name]) for name in full)


@pytest.mark.parametrize("method", ["dense", "granet"])
@pytest.mark.parametrize("rate", RATES)
def test_pruning_takes_the_smallest_of_the_active_weights(
    trained: Callable[..., Path], method: str, rate: float
) -> None:
    asked = job(kept(trained(method)), rate)
    run, counts = prepare(asked, open_data(asked.recipe), CPU)
    parent = load(asked.source.path)
    masks = dict(run.sparsifier.masks)
    magnitudes = {name: parent.weights[name].abs() for name in masks}
    assert counts["pruned"] == sum(active(masks).values()) == round((1 - rate) * counts["before"])
    assert counts["before"] == sum(active(parent.masks).values())
    assert all(not (mask & ~parent.masks[name]).any() for name, mask in masks.items())
    lowest = min(float(magnitudes[name][mask].min()) for name, mask in masks.items())
    gone = [magnitudes[name][parent.masks[name] & ~mask] for name, mask in masks.items()]
    assert max(float(part.max()) for part in gone if len(part)) <= lowest
    for name, parameter in run.model.named_parameters():
        expected = parent.weights[name] * masks[name] if name in masks else parent.weights[name]
        assert torch.equal(parameter.detach(), expected)


def test_uniform_pruning_takes_the_same_share_of_each_layer(trained: Callable[..., Path]) -> None:
    asked = job(kept(trained()), 0.75, scope="uniform")
    run, _ = prepare(asked, open_data(asked.recipe), CPU)
    for mask in run.sparsifier.masks.values():
        assert abs(int(mask.sum()) - 0.25 * mask.numel()) <= 1


@pytest.mark.parametrize("method", ["dense", "granet"])
@pytest.mark.parametrize("kind", ["pruned", "swap"])
def test_regeneration_grows_by_the_dense_gradient_of_the_checkpoint(
    trained: Callable[..., Path], method: str, kind: str
) -> None:
    asked = job(kept(trained(method)), 0.9, kind)
    dataset = open_data(asked.recipe)
    parent = load(asked.source.path)
    bare, _ = prepare(replace(asked, regeneration="none"), dataset, CPU)
    run, counts = prepare(asked, dataset, CPU)
    pruned, masks = mapped(bare.sparsifier.masks), mapped(run.sparsifier.masks)
    assert counts["before"] == sum(active(parent.masks).values())
    assert active(masks) == active(parent.masks if kind == "pruned" else pruned)
    # The gradient of the checkpoint itself, on the batch that comes next, worked out apart.
    images, labels = next(bare.pipeline.batches(*divmod(asked.source.step, STEPS)[:1], start=asked.source.step % STEPS))
    bare.model.load_state_dict({**bare.model.state_dict(), **parent.weights, **parent.buffers})
    bare.model.train()
    bare.model.zero_grad()
    torch.nn.functional.cross_entropy(bare.model(images), labels).backward()
    state = dict(run.model.named_parameters())
    for name, parameter in bare.model.named_parameters():
        if name not in masks:
            continue
        assert parameter.grad is not None
        scores, grown, survived = parameter.grad.abs(), masks[name] & ~pruned[name], masks[name] & pruned[name]
        dropped = pruned[name] & ~masks[name]
        rest = ~pruned[name] & ~masks[name]
        if grown.any() and rest.any():
            assert scores[grown].min() >= scores[rest | dropped].max()
        assert not state[name].detach()[~survived].any()
        assert torch.equal(state[name].detach()[survived], parent.weights[name][survived])
        slot = run.optimizer.state[state[name]]["momentum_buffer"]
        assert not slot[~survived].any()
        momentum = parent.optimizer[name]["momentum_buffer"]
        assert isinstance(momentum, torch.Tensor)
        assert torch.equal(slot[survived], momentum[survived])
    for name, buffer in run.model.named_buffers():
        assert torch.equal(buffer, parent.buffers[name])  # the gradient left no trace


def test_a_dense_network_is_dense_again_when_as_many_grow_as_were_pruned(trained: Callable[..., Path]) -> None:
    asked = job(kept(trained()), 0.9, "pruned")
    run, counts = prepare(asked, open_data(asked.recipe), CPU)
    assert run.sparsifier.density == 1
    assert counts["pruned"] == round(0.1 * counts["before"])


@pytest.mark.parametrize("kind", ["none", "pruned", "swap"])
def test_masks_are_fixed_and_the_learning_rate_is_frozen(trained: Callable[..., Path], kind: str) -> None:
    asked = job(kept(trained()), 0.9, kind, epochs=2)  # from step 8; the schedule drops the rate at step 10
    assert asked.source.learning_rate == 0.01
    run, _ = prepare(asked, open_data(asked.recipe), CPU)
    masks, told, rates = mapped(run.sparsifier.masks), [], set()

    def watch(event: cells.CellProgressed) -> None:
        told.append((event.steps, event.total))
        rates.update(group["lr"] for group in run.optimizer.param_groups)

    assert cells.train(run, asked, watch=watch, stop=lambda: False)
    assert rates == {0.01}
    assert told == [(step, 2 * STEPS) for step in range(1, 2 * STEPS + 1)]
    assert run.step == 8 + 2 * STEPS
    for name, mask in run.sparsifier.masks.items():
        assert torch.equal(mask, masks[name])
        assert not dict(run.model.named_parameters())[name].detach()[~mask].any()


def test_the_learning_rate_is_that_of_the_next_step_or_at_the_end_of_the_last(trained: Callable[..., Path]) -> None:
    run = RunFolder(trained())
    rates = [
        plan([str(run.kept(step))], GridSettings(epochs=1), [0.5], ["none"]).sources[0] for step in run.kept_steps()
    ]
    assert [(source.step, source.learning_rate) for source in rates] == [(0, 0.01), (8, 0.01), (16, 0.001)]
    assert job(run.last).source.learning_rate == 0.001


def test_a_cell_is_the_fine_tuning_of_its_checkpoint(trained: Callable[..., Path], tmp_path: Path) -> None:
    """Held together with the loop of training: the same weights, bit for bit, and the same accuracy."""
    asked = job(kept(trained("granet"), 0), 0.5, epochs=2)
    dataset = open_data(asked.recipe)
    outline = load(asked.source.path)
    request = RewindRequest(
        checkpoint=asked.source.path,
        mode="finetune",
        to=f"{(EPOCHS - 2) * STEPS}it",
        density=(1 - asked.rate) * density(outline.masks),
        learning_rate=asked.source.learning_rate,
    )
    recipe = plan_rewind(request, base_recipe(request, outline), outline, dataset)
    assert recipe == asked.recipe
    rewind(recipe, tmp_path / "run", CPU, dataset=dataset, watch=lambda _: None, stop=lambda: False)
    end = load(tmp_path / "run" / "last.safetensors")
    run, _ = prepare(asked, dataset, CPU)
    cells.train(run, asked, watch=lambda _: None, stop=lambda: False)
    assert all(torch.equal(value.detach(), end.weights[name]) for name, value in run.model.named_parameters())
    found = measure(asked, baseline(asked, dataset, CPU), dataset, CPU)
    assert found.after == end.metrics["epochs"][-1]["validation_accuracy"]


def test_the_accuracy_before_is_that_of_granet_eval(trained: Callable[..., Path], granet: Granet) -> None:
    asked = job(trained() / "last.safetensors")
    dataset = open_data(asked.recipe)
    found = measure(asked, baseline(asked, dataset, CPU), dataset, CPU)
    answer = granet("eval", asked.source.path, "--split", "validation", "--json").json()
    assert (found.before, found.examples) == (answer["accuracy"], answer["examples"])
    assert found.before == load(asked.source.path).metrics["epochs"][-1]["validation_accuracy"]
    assert found.after is not None
    assert found.plasticity == found.after - found.before


def test_a_loss_that_is_not_finite_is_a_result_without_accuracy(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("granet.training.step.learning_rate", lambda *_: 1e15)
    asked = job(kept(trained()))
    dataset = open_data(asked.recipe)
    found = measure(asked, baseline(asked, dataset, CPU), dataset, CPU)
    assert (found.after, found.plasticity) == (None, None)
    write(tmp_path, found)
    assert read(tmp_path) == [found]


# The report


def made_up(**values: Any) -> Cell:
    return Cell(
        **{
            **{"checkpoint": "a" * 64, "step": 10, "epoch": 2.0, "seed": 0, "learning_rate": 0.1, "rate": 0.5},
            **{"regeneration": "none", "epochs": 1, "scope": "global", "drop_fraction": None, "parameters": 100},
            **{"active_before": 100, "active_pruned": 50, "active": 50, "before": 0.5, "pruned": 0.25, "after": 0.75},
            **{"split": "validation", "examples": 8, "device": "cpu", "precision": "fp32"},
            **values,
        }
    )


def test_curves_have_mean_and_deviation_over_seeds_and_what_regeneration_gains() -> None:
    found = summarise(
        [
            made_up(after=0.75),
            made_up(after=0.875, regeneration="pruned", active=100),
            made_up(seed=1, checkpoint="b" * 64, after=0.5),
            made_up(seed=1, checkpoint="b" * 64, after=0.875, regeneration="pruned", active=100),
            made_up(seed=2, checkpoint="c" * 64, after=None),
            made_up(seed=2, checkpoint="c" * 64, after=0.875, regeneration="pruned", active=100),
        ],
        ["a", "b", "c"],
        Recipe.load("quickstart"),
        (),
    )
    bare, regrown = found.curves
    assert [(curve.rate, curve.regeneration) for curve in found.curves] == [(0.5, "none"), (0.5, "pruned")]
    point = bare.points[0]
    assert point.plasticity is not None
    assert (point.plasticity.mean, point.plasticity.count) == (0.125, 2)
    assert point.plasticity.deviation == pytest.approx(0.25 / math.sqrt(2))
    assert (point.diverged, point.gain, point.density.mean) == (1, None, 0.5)
    gained = regrown.points[0].gain
    assert gained is not None
    assert (gained.mean, gained.count) == (0.25, 2)
    assert regrown.points[0].density.mean == 1


# Stopping and going on


def grid(*runs: Path, rates: list[float] | None = None, epochs: int = 1) -> Grid:
    return plan(map(str, runs), GridSettings(epochs=epochs), rates or [0.9], ["none", "swap"])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_grid_ends_as_if_undisturbed(trained: Callable[..., Path], tmp_path: Path) -> None:
    asked = grid(trained())
    whole = experiment.run(asked, CPU, out=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    moments = iter([3, 8, 12])  # within the first, the second and the third cell of what is left
    attempts = 0
    while True:
        limit, steps, begun = next(moments, None), 0, []

        def watch(event: experiment.Event, begun: list[int] = begun) -> None:
            if isinstance(event, experiment.CellStarted):
                begun.append(event.number)

        def stop(limit: int | None = limit) -> bool:
            nonlocal steps
            steps += 1
            return limit is not None and steps > limit

        try:
            report = experiment.run(asked, CPU, out=stopped, watch=watch, stop=stop)
        except Interrupted:
            attempts += 1
            continue
        break
    assert attempts == 3
    assert 1 < begun[0] <= len(asked.jobs)  # finished cells were not measured again
    assert content(stopped) == content(tmp_path / "whole")
    assert report == whole


def test_a_killed_grid_is_resumed(trained: Callable[..., Path], tmp_path: Path, granet: Granet) -> None:
    options = ["--epochs", "1", "--rates", "0.5,0.9", "--regeneration", "none,swap"]
    run = str(trained())
    command = [sys.executable, "-m", "granet_cli", "plasticity", run, *options, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("cell-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(list((tmp_path / "killed").glob("cell-*"))) < 12
    one = granet("plasticity", run, *options, "--out", tmp_path / "killed")
    other = granet("plasticity", run, *options, "--out", tmp_path / "whole")
    assert one.code == other.code == 0
    assert one.out == other.out
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_larger_grid_measures_only_missing_cells(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = experiment.run(grid(dense), CPU)
    numbers: list[tuple[int, int]] = []

    def watch(event: experiment.Event) -> None:
        if isinstance(event, experiment.CellEnded):
            numbers.append((event.number, event.total))

    both = experiment.run(grid(dense, rates=[0.9, 0.5]), CPU, watch=watch)
    assert numbers == [(number, 12) for number in range(7, 13)]
    assert set(first.cells) < set(both.cells)
    monkeypatch.setattr(experiment, "open_data", None)
    assert experiment.run(grid(dense), CPU) == first
    assert {path.name for path in (dense / "plasticity").iterdir()} == {
        path.name for path in (dense / "plasticity").glob("cell-*.json")
    }


def test_results_of_other_settings_are_not_mixed(dense: Path) -> None:
    first = kept(dense)
    experiment.run(grid(first), CPU)
    with pytest.raises(
        UsageError, match=r"results of other settings; got --epochs 1\. Repeat these, or choose another"
    ):
        experiment.run(grid(first, epochs=2), CPU)
    with pytest.raises(UsageError, match="got --scope global"):
        experiment.run(plan([str(first)], GridSettings(epochs=1, scope="uniform"), [0.9], ["none"]), CPU)
    other = GridSettings(epochs=1, drop_fraction=0.25)
    with pytest.raises(UsageError, match=r"got --drop-fraction 0\.5"):
        experiment.run(plan([str(first)], other, [0.9], ["swap"]), CPU)


def test_one_process_at_a_time(dense: Path) -> None:
    with (
        RunFolder(dense / "plasticity").claimed(),
        pytest.raises(UsageError, match="another process is training in this folder"),
    ):
        experiment.run(grid(kept(dense)), CPU)


def spoilt(text: str) -> Iterator[tuple[str, str]]:
    value = json.loads(text)
    yield "", "not a result of granet plasticity"
    yield "[1]", "not a result of granet plasticity"
    yield " " * 70_000 + text, "too large for a result"
    yield json.dumps({key: value[key] for key in value if key != "after"}), "not a result of granet plasticity"
    yield json.dumps({**value, "format": 2}), "written by a newer version of granet; got format 2; expected 1"
    yield json.dumps({**value, "rate": "0.9"}), "rate: a result that cannot be; got '0.9'"
    yield json.dumps({**value, "step": True}), "step: a result that cannot be; got True"
    yield json.dumps({**value, "after": 1e400}), "after: a result that cannot be; got inf"


def test_damaged_and_newer_results_are_reported(dense: Path) -> None:
    first = kept(dense)
    experiment.run(plan([str(first)], GridSettings(epochs=1), [0.9], ["none"]), CPU)
    (file,) = (dense / "plasticity").iterdir()
    for text, message in spoilt(file.read_text()):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            experiment.run(grid(first), CPU)


# The command


def test_json_has_the_curves_and_nothing_else_is_printed(
    trained: Callable[..., Path], tmp_path: Path, granet: Granet
) -> None:
    runs = [trained(), trained(seed=1)]
    answer = granet(
        *("plasticity", *runs, "--epochs", 1, "--rates", "0.9", "--regeneration", "none,swap", "--json"),
        *("--out", tmp_path / "results", "--plot", tmp_path / "a.svg"),
    )
    assert answer.code == 0, answer.err
    found = answer.json()
    assert found["runs"] == [str(run) for run in runs]
    assert (found["seeds"], found["epochs"], found["scope"]) == ([0, 1], 1, "global")
    assert (found["split"], found["drop_fraction"], found["method"]) == ("validation", 0.5, "dense")
    assert found["learning_rate_drops"] == [{"step": 10, "epoch": 2.0, "before": 0.01, "after": 0.001}]
    assert [(c["rate"], c["regeneration"]) for c in found["curves"]] == [(0.9, "none"), (0.9, "swap")]
    points = found["curves"][1]["points"]
    assert [point["step"] for point in points] == [0, 8, 16]
    assert all(point["plasticity"]["count"] == 2 for point in points)
    assert len(found["cells"]) == 12
    svg = (tmp_path / "a.svg").read_text()
    for text in (
        "plasticity, percentage points",
        "epoch at which it was pruned",
        "90 %",
        "standard deviation",
        "2 seeds",
    ):
        assert text in svg
    again = granet(
        *("plasticity", *runs, "--epochs", 1, "--rates", "0.9", "--regeneration", "none,swap"),
        *("--out", tmp_path / "results", "--plot", tmp_path / "b.svg"),
    )
    assert "12 of 12 cells are there already" in again.err
    assert (tmp_path / "b.svg").read_text() == svg
    assert "plasticity in points, swapped at the pruned density, by the share pruned" in again.out
    for kind in (".png", ".pdf"):
        picture = (tmp_path / "c").with_suffix(kind)
        names = ("plasticity", *runs, "--epochs", 1, "--rates", "0.9", "--regeneration", "none", "--plot", picture)
        assert granet(*names, "--out", tmp_path / "results").code == 0
        assert picture.stat().st_size > 5000


def test_a_dry_run_writes_nothing(dense: Path, granet: Granet) -> None:
    answer = granet("plasticity", dense, "--epochs", 3, "--dry-run", "--json")
    assert answer.code == 0
    assert "24 cells: 3 checkpoints of 1 run, 4 rates, 2 kinds of regeneration" in answer.err
    assert [cell["steps"] for cell in answer.json()["cells"]] == [3 * STEPS] * 24
    assert not (dense / "plasticity").exists()


def test_the_folder_of_moved_data_can_be_given(dense: Path, tmp_path: Path, granet: Granet) -> None:
    images = load(dense / "last.safetensors").recipe.data.directory
    assert images is not None
    moved = shutil.copytree(images, tmp_path / "moved")
    names = ["plasticity", kept(dense), "--epochs", 1, "--rates", "0.5", "--regeneration", "none"]
    assert granet(*names, "--out", tmp_path / "a").code == 0
    assert granet(*names, "--out", tmp_path / "b", "--data", moved, "--workers", 0).code == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    shutil.rmtree(moved / "train" / "class-2")
    answer = granet(*names, "--out", tmp_path / "c", "--data", moved)
    assert answer.code == 1


def without(run: Path, pattern: str) -> None:
    for path in run.glob(pattern):
        path.unlink()


def unfinished(run: Path) -> None:
    last = load(run / "last.safetensors")
    save(run / "last.safetensors", replace(last, metrics={k: v for k, v in last.metrics.items() if k != "test"}))


def foreign(run: Path) -> None:
    shutil.copy(kept(run, 8), kept(run, 7))


def damaged(run: Path) -> None:
    kept(run).write_bytes(kept(run).read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: without(run, "step-*"), "kept no checkpoints on its way"),
        (lambda run: without(run, "step-*"), "--set training.keep_every=10ep"),
        (lambda run: without(run, "last.*"), "the run has no checkpoint yet"),
        (unfinished, "the run is not finished; got step 20 of 20. Resume it with granet train --resume"),
        (foreign, "not of the step in its name"),
        (damaged, "step-00000008.safetensors"),
        (shutil.rmtree, "nothing of this name is there"),
    ],
)
def test_a_folder_that_cannot_be_measured_is_reported(dense: Path, spoil: Any, message: str) -> None:
    spoil(dense)
    with pytest.raises(GranetError) as told:
        plan([str(dense)], GridSettings(epochs=1), [0.5], ["none"])
    assert message in str(told.value)


def test_a_run_that_is_being_written_to_is_reported(dense: Path) -> None:
    with RunFolder(dense).claimed(), pytest.raises(UsageError, match="another process is training in this folder"):
        plan([str(dense)], GridSettings(epochs=1), [0.5], ["none"])


def test_a_checkpoint_of_an_unfinished_run_can_be_named(dense: Path) -> None:
    unfinished(dense)
    assert plan([str(kept(dense))], GridSettings(epochs=1), [0.5], ["none"]).sources[0].step == 8


def test_checkpoints_count_once_however_they_are_named(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dense.parent)
    found = plan([str(dense), "dense", "./dense/last.safetensors"], GridSettings(epochs=1), [0.5], ["none"])
    assert [source.step for source in found.sources] == [0, 8, 16, 20]
    assert len(found.runs) == 1


def test_runs_that_are_not_one_training_are_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    def check(other: Path, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan([str(trained()), str(other)], GridSettings(epochs=1), [0.5], ["none"])

    check(
        trained(learning_rate=0.02), r"differ in more than their seed: optimizer.learning_rate; got 0.02; expected 0.01"
    )
    check(trained("granet"), "differ in more than their seed: method.name; got granet; expected dense")

    def resaved(path: Path, change: Callable[[Checkpoint], Checkpoint]) -> Path:
        path.parent.mkdir()
        save(path, change(load(kept(trained(), 16))))
        return path

    same = resaved(tmp_path / "same" / "a.safetensors", lambda found: replace(found, step=15))
    check(same, "two runs have the same seed")
    imported = resaved(tmp_path / "imported" / "a.safetensors", lambda found: replace(found, progress={}))
    check(imported, "how these weights were trained is not known")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN"], 2, "Missing option '--epochs'"),
        (["RUN", "--epochs", 0], 2, "--epochs: out of range; got 0"),
        (["RUN", "--epochs", 1, "--rates", "0.5,1"], 2, "--rates: not a share to prune; got 1.0"),
        (["RUN", "--epochs", 1, "--rates", "half"], 2, "--rates: not a list of numbers; got 'half'"),
        (["RUN", "--epochs", 1, "--rates", "0.5,0.50"], 2, "--rates: a value is given twice"),
        (["RUN", "--epochs", 1, "--rates", "nan"], 2, "--rates: not a share to prune"),
        (["RUN", "--epochs", 1, "--rates", "0.99999"], 2, "every layer keeps at least one active weight"),
        (["RUN", "--epochs", 1, "--regeneration", "all"], 2, "unknown regeneration 'all'"),
        (["RUN", "--epochs", 1, "--drop-fraction", 0], 2, "--drop-fraction: out of range"),
        (["RUN", "--epochs", 1, "--plot", "a.gif"], 2, "expected .svg, .png or .pdf"),
        (["RUN", "--epochs", 1, "--overwrite"], 2, "there is nothing to overwrite"),
        (["", "--epochs", 1], 2, "the path is empty"),
        (["nowhere", "--epochs", 1], 2, "nothing of this name is there"),
        (["RUN", "--epochs", 1, "--model", "vgg19"], 2, "the checkpoint holds another network"),
        (["RUN", "--epochs", 1, "--scope", "local"], 2, "--scope"),
    ],
)
def test_impossible_requests_are_refused(
    trained: Callable[..., Path], granet: Granet, arguments: list[object], code: int, message: str
) -> None:
    answer = granet("plasticity", *(trained() if argument == "RUN" else argument for argument in arguments))
    assert answer.code == code
    assert message in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert answer.out == ""
