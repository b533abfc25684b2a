"""Runs side by side: what shares a row, what its figures are, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from granet.analysis.comparison import Comparison, Statistic, compare, curves
from granet.checkpoint import Checkpoint, Network, save
from granet.errors import Interrupted
from granet.models import build
from granet.recipe import Recipe
from granet.training import RunFolder, train
from granet_cli.app import run as granet
from granet_cli.charts.palette import colour, dash, marker
from granet_cli.compare.plot import labels
from granet_cli.compare.view import ORDERS, brace_paths
from tests.synthetic import arrays_dataset

MODEL = build("lenet-300-100", in_channels=1, classes=2, image_size=2)
BUFFERS = dict(MODEL.named_buffers())
WEIGHTS = {name: parameter.detach() for name, parameter in MODEL.named_parameters()}
MASKABLE = {name: weight for name, weight in WEIGHTS.items() if weight.dim() > 1}
SIZE = sum(weight.numel() for weight in MASKABLE.values())
HASHES = ["ab" * 32, "cd" * 32, "ef" * 32]


def masks(density: float) -> dict[str, torch.Tensor]:
    """Masks whose density is exactly this share of all weights, and about this share of each layer."""
    found, left = {}, round(density * SIZE)
    for index, (name, weight) in enumerate(MASKABLE.items()):
        share = left if index == len(MASKABLE) - 1 else round(density * weight.numel())
        found[name] = (torch.arange(weight.numel()) < share).reshape(weight.shape)
        left -= share
    return found


def recipe(*, method: str = "granet", density: float = 0.25, **settings: object) -> Recipe:
    base, _ = Recipe.load("quickstart").override({"model.name": "lenet-300-100"}).with_method(method, density=density)
    return base.override({key.replace("__", "."): value for key, value in settings.items()})


def dense(**settings: object) -> Recipe:
    base, _ = Recipe.load("quickstart").override({"model.name": "lenet-300-100"}).with_method("dense")
    return base.override({key.replace("__", "."): value for key, value in settings.items()})


def rewound(
    mode: str = "lr", *, densities: Sequence[float] = (0.2,), round: int = 1, seed: int = 0, **changes: object
) -> Recipe:
    section: dict[str, object] = {
        "mode": mode,
        "parent": f"/runs/{seed}/last.safetensors",
        "parent_hash": HASHES[seed],
        "start": 0,
        "steps": 100,
        "densities": list(densities),
        "round": round,
    }
    if mode == "weights":
        section |= {"point": f"/runs/{seed}/step-00000010.safetensors", "point_hash": HASHES[seed], "start": 10}
    if mode == "finetune":
        section |= {"learning_rate": 0.01}
    base = recipe(method="static", density=densities[round - 1], seed=seed)
    data = base.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    return Recipe.from_dict({**data, "rewind": {**section, **changes}})


def write(
    folder: Path,
    given: Recipe,
    *,
    accuracy: float | None = 0.8,
    validation: float = 0.75,
    density: float | None = None,
    ancestors: Sequence[dict[str, Any]] = (),
    best: bool = True,
    metrics: dict[str, Any] | None = None,
    **parts: Any,
) -> Path:
    """The folder of a run as training leaves it: without ``accuracy`` before its end, without ``best`` before there
    is a best epoch. ``metrics`` are instead of all that was measured."""
    active = masks(density or given.method.density or 1.0)
    measured: dict[str, Any] = {"epochs": [{"epoch": 1, "validation_accuracy": validation / 2}], "updates": []}
    if best:
        measured["best"] = {"epoch": 3, "step": 60, "accuracy": validation, "loss": 0.5}
    if ancestors:
        measured["lineage"] = list(ancestors)
    tested = {} if accuracy is None else {"test": {"epoch": 3, "accuracy": accuracy, "loss": 0.6, "examples": 10}}
    value = Checkpoint(
        **{
            "weights": {name: weight * active.get(name, 1) for name, weight in WEIGHTS.items()},
            "masks": active,
            "buffers": BUFFERS,
            "explored": active,
            "optimizer": {},
            "accumulators": {},
            "recipe": given,
            "step": 60,
            "network": Network(
                name=given.model.name, in_channels=1, classes=("a", "b"), image_size=2, mean=(0.5,), std=(0.5,)
            ),
            "progress": {
                "steps_per_epoch": 20,
                "total_steps": 100,
                "examples": {"train": 50, "validation": 5, "test": 10},
            },
            "metrics": measured if metrics is None else metrics,
            **parts,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(given.to_toml())
    if best:
        save(folder / "best.safetensors", value)
    last = {**measured, **tested} if metrics is None else metrics
    save(folder / "last.safetensors", dataclasses.replace(value, step=100 if tested else 60, metrics=last))
    return folder


def note(method: str = "granet", **facts: object) -> dict[str, Any]:
    """An ancestor, as a rewound run notes it."""
    return {"hash": HASHES[0], "recipe": "quickstart", "method": method, "step": 100, "density": 0.25, **facts}


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """``granet compare`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = granet(["compare", *map(str, arguments)])
        return Answer(code, *capfd.readouterr())

    return call


def rows(comparison: Comparison) -> list[list[str]]:
    return [[run.path.name for run in group.runs] for group in comparison.groups]


def compared(*folders: Path) -> Comparison:
    return compare(str(folder) for folder in folders)


# What shares a row


def test_runs_that_differ_in_seed_alone_share_a_row(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.80, 0.82, 0.87)):
        write(tmp_path / str(seed), recipe(seed=seed), accuracy=accuracy, validation=accuracy - 0.1)
    (group,) = compared(tmp_path).groups
    assert group.seeds == (0, 1, 2)
    assert group.test_accuracy == Statistic(mean=pytest.approx(0.83), deviation=pytest.approx(0.036055513), count=3)
    assert group.validation_accuracy == Statistic(
        mean=pytest.approx(0.73), deviation=pytest.approx(0.036055513), count=3
    )
    assert group.density == masks_density(0.25)
    assert group.settings == {}


def masks_density(density: float) -> float:
    return round(density * SIZE) / SIZE


def test_a_single_run_has_no_deviation(tmp_path: Path) -> None:
    (group,) = compared(write(tmp_path / "a", recipe())).groups
    assert group.test_accuracy == Statistic(mean=0.8, deviation=None, count=1)


def test_other_settings_make_another_row_that_names_them(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe(seed=0))
    write(tmp_path / "b", recipe(seed=1, method__interval="10it"))
    write(tmp_path / "c", recipe(seed=2, optimizer__learning_rate=0.01))
    report = compared(tmp_path)
    assert rows(report) == [["a"], ["b"], ["c"]]
    first, second, third = (group.settings for group in report.groups)
    assert list(first) == list(second) == list(third) == ["method.interval", "optimizer.learning_rate"]
    assert second["method.interval"] == "10it" != first["method.interval"] == third["method.interval"]
    assert third["optimizer.learning_rate"] == 0.01 != first["optimizer.learning_rate"]


def test_data_directory_and_description_of_a_recipe_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe(seed=0, data__directory="/here", description="the first"))
    write(tmp_path / "b", recipe(seed=1, data__directory="/there"))
    assert rows(compared(tmp_path)) == [["a", "b"]]


def test_other_images_of_the_same_name_are_another_row(tmp_path: Path) -> None:
    progress = {"steps_per_epoch": 20, "total_steps": 100, "examples": {"train": 51, "validation": 5, "test": 10}}
    write(tmp_path / "a", recipe(seed=0))
    write(tmp_path / "b", recipe(seed=1), progress=progress)
    report = compared(tmp_path)
    assert rows(report) == [["a"], ["b"]]
    assert report.groups[1].settings == {"images": "2 classes, 1 x 2 x 2, 10 test, 51 train, 5 validation"}


def test_a_deviation_is_over_different_seeds(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 1), ("e", 1)):
        write(tmp_path / name, recipe(seed=seed))
    report = compared(tmp_path)
    assert rows(report) == [["a", "b"], ["c", "d"], ["e"]]
    assert [problem.path for problem in report.problems] == [str(tmp_path / name) for name in "cde" if name != "d"]
    assert "settings and seed 0 are those of" in report.problems[0].message


def test_rewound_runs_share_a_row_when_their_lineages_differ_in_seed_alone(tmp_path: Path) -> None:
    for seed in (0, 1):
        origin = note(hash=HASHES[seed], test_accuracy=0.7 + seed / 10, step=80 + seed)
        write(tmp_path / f"lr-{seed}", rewound(seed=seed), ancestors=[origin])
        write(tmp_path / f"weights-{seed}", rewound("weights", seed=seed), ancestors=[origin])
        start = 80 + 20 * seed  # wherever the training of that seed had its best epoch
        write(tmp_path / f"x-{seed}", rewound("finetune", seed=seed, start=start), ancestors=[origin])
    assert rows(compared(tmp_path)) == [["lr-0", "lr-1"], ["weights-0", "weights-1"], ["x-0", "x-1"]]


def test_rewound_runs_of_different_origins_do_not(tmp_path: Path) -> None:
    write(tmp_path / "a", rewound(seed=0), ancestors=[note("granet")])
    write(tmp_path / "b", rewound(seed=1), ancestors=[note("dense", density=1.0)])
    report = compared(tmp_path)
    assert rows(report) == [["a"], ["b"]]
    assert [group.settings for group in report.groups] == [
        {"ancestors": "granet 0.2500"},
        {"ancestors": "dense 1.0000"},
    ]


def write_rounds(folder: Path, *, seed: int, accuracy: float, mode: str = "lr") -> Path:
    densities = (0.2, 0.1, 0.05)
    ancestors = [note()]
    for number, density in enumerate(densities, 1):
        start = 100 * number if mode == "finetune" else 0
        given = rewound(mode, densities=densities, round=number, seed=seed, start=start)
        write(folder / f"round-{number:02d}", given, accuracy=accuracy - number / 100, ancestors=ancestors)
        ancestors = [*ancestors, note("static", density=density, mode=mode, round=number, test_accuracy=seed / 10)]
    (folder / "rewind.toml").write_text(rewound(mode, densities=densities, seed=seed).to_toml())
    return folder


def test_every_round_of_a_rewind_is_a_row(tmp_path: Path, ask: Ask) -> None:
    write_rounds(tmp_path / "a", seed=0, accuracy=0.8, mode="finetune")
    write_rounds(tmp_path / "b", seed=1, accuracy=0.9, mode="finetune")
    report = compare(["a", "b"])
    assert [(group.first.round, group.first.rounds, len(group.runs)) for group in report.groups] == [
        (1, 3, 2),
        (2, 3, 2),
        (3, 3, 2),
    ]
    answer = ask("a", "b")
    assert "{a,b}/round-02" in answer.out
    assert re.search(r"finetune\s+2/3\s+2\s+0\.1\d+\s+83.00% ± 7.07", answer.out)


# Figures


def test_figures_are_those_of_the_checkpoint_that_was_tested(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe(), accuracy=0.9, validation=0.7)
    other = compared(write(tmp_path / "b", recipe(), density=0.5)).runs[0]
    shown = compared(tmp_path / "a").runs[0]
    (tmp_path / "b/best.safetensors").replace(tmp_path / "a/best.safetensors")  # other masks than the last state
    moved = compared(tmp_path / "a").runs[0]
    assert shown.inspection.density == masks_density(0.25)
    assert (moved.inspection.density, moved.inspection.active, moved.bytes, moved.inspection.flops) == (
        other.inspection.density,
        other.inspection.active,
        other.bytes,
        other.inspection.flops,
    )
    assert (moved.test_accuracy, moved.step, moved.finished) == (0.9, 100, True)


def test_flops_are_of_the_masks(tmp_path: Path) -> None:
    (run,) = compared(write(tmp_path / "a", recipe(), density=0.5)).runs
    costs = {"dense": 2.0 * SIZE, "active": pytest.approx(2.0 * run.inspection.active)}
    assert run.inspection.flops == costs


def test_a_dense_run_compares(tmp_path: Path) -> None:
    (group,) = compared(write(tmp_path / "a", dense())).groups
    assert group.density == 1.0
    assert group.flops_share == Statistic(mean=1.0, deviation=None, count=1)


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.2], [0.3, 0.3, 0.9, 0.1]])
def test_statistics_are_those_of_a_sample(values: list[float]) -> None:
    found = Statistic.of([None, *values])
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(math.fsum(values) / len(values)), len(values))
    expected = torch.tensor(values, dtype=torch.float64).std(correction=1).item() if len(values) > 1 else None
    assert found.deviation == pytest.approx(expected)
    assert Statistic.of([None]) is None


# Runs that are not finished


def test_an_unfinished_run_is_shown_with_a_mark(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "a", recipe(seed=0), validation=0.7)
    write(tmp_path / "b", recipe(seed=1), validation=0.6, accuracy=None)
    answer = ask("a", "b")
    assert answer.code == 0
    assert re.search(r"^b .*-\s+60\.00%\*", answer.out, re.MULTILINE)
    assert "* not finished" in answer.out
    assert "b: not finished, and so not tested: it is at step 60 of 100" in answer.err
    assert [(run["finished"], run["test_accuracy"]) for run in ask("a", "b", "--json").json()["runs"]] == [
        (True, 0.8),
        (False, None),
    ]


def test_before_there_is_a_best_epoch_the_newest_one_counts(tmp_path: Path) -> None:
    (run,) = compared(write(tmp_path / "a", recipe(), accuracy=None, best=False, validation=0.6)).runs
    assert (run.checkpoint, run.validation_accuracy, run.test_accuracy) == ("last.safetensors", 0.3, None)


def test_before_the_first_epoch_there_is_no_accuracy(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "a", recipe(), accuracy=None, best=False, metrics={"epochs": [], "updates": []})
    assert compare(["a"]).runs[0].validation_accuracy is None
    assert re.search(r" -\s+-\*", ask("a").out)


def test_real_runs_compare(tmp_path: Path, ask: Ask) -> None:
    """Whatever training writes is what is read here."""
    base = recipe(
        data__validation=0.3,
        data__augment="none",
        method__interval="1it",
        method__end="2it",
        training__epochs=1,
        training__batch_size=4,
    )
    data = arrays_dataset()
    for seed in (0, 1):
        given, folder = base.override({"seed": seed}), RunFolder(tmp_path / "runs" / str(seed))
        result = train(given, folder, torch.device("cpu"), dataset=data)
        assert compare([str(folder.path)]).runs[0].test_accuracy == result.accuracy
    stopped = RunFolder(tmp_path / "runs/stopped")
    with pytest.raises(Interrupted):
        train(base.override({"seed": 2}), stopped, torch.device("cpu"), dataset=data, stop=lambda: True)
    report = compare(["runs"])
    assert rows(report) == [["0", "1"], ["stopped"]]
    assert [group.finished for group in report.groups] == [True, False]
    assert report.groups[0].density == pytest.approx(0.25, abs=1e-4)
    assert report.groups[0].flops_share is not None
    assert ask("runs").code == 0


# What is no run, or damaged


def test_runs_that_cannot_be_read_are_reported_and_the_others_compared(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "good", recipe())
    damaged = write(tmp_path / "damaged", recipe()) / "best.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    (write(tmp_path / "cleared", recipe()) / "best.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/recipe.toml").write_text(recipe().to_toml())
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds/rewind.toml").touch()
    (tmp_path / "file").touch()
    write(tmp_path / "imported", recipe(), progress={}, accuracy=None, best=False)
    bad = ["damaged", "cleared", "empty", "begun", "rounds", "file", "imported", "nowhere", "no*"]
    answer = ask(*bad, "good", "--json")
    assert answer.code == 0
    assert [run["path"] for run in answer.json()["runs"]] == ["good"]
    assert [problem["path"] for problem in answer.json()["problems"]] == [
        *["empty", "rounds", "file", "nowhere", "no*"],
        *["damaged", "cleared", "begun", "imported"],
    ]
    for line in (
        "damaged/best.safetensors, tensor",
        "cleared/best.safetensors: the file cannot be read; got No such file",
        "empty: no run here; expected last.safetensors or recipe.toml",
        "begun: the run has no checkpoint yet",
        "rounds: no round of this rewind was begun yet",
        "file: not a folder",
        "imported/last.safetensors: these are weights, not the state of a run",
        "nowhere: nothing of this name is there",
    ):
        assert line in answer.err
    alone = ask(*bad)
    assert (alone.code, alone.out) == (1, "")
    assert "there is nothing to compare" in alone.err


def test_checkpoints_of_two_runs_are_not_taken_for_one(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe(seed=0))
    write(tmp_path / "b", recipe(seed=1))
    (tmp_path / "b/best.safetensors").replace(tmp_path / "a/best.safetensors")
    assert "of another run than last.safetensors" in compared(tmp_path / "a").problems[0].message


def test_a_best_epoch_that_is_not_the_tested_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe())
    write(tmp_path / "b", recipe(), step=40)
    (tmp_path / "b/best.safetensors").replace(tmp_path / "a/best.safetensors")
    assert (
        "not the checkpoint that was tested; got step 40; expected 60" in compared(tmp_path / "a").problems[0].message
    )


@pytest.mark.parametrize(
    "metrics",
    [
        {
            "best": {"step": 60},
            "test": 3,
            "epochs": {},
            "lineage": [3, {"method": ["x"], "density": "1", "round": 1e99}],
        },
        {"best": {"accuracy": 1e300, "step": 60}, "test": {"accuracy": -1e300}, "lineage": "long", "epochs": [3]},
        {"best": 60, "test": {"accuracy": 0.5}},
        {"best": {"accuracy": "1", "step": "60"}, "epochs": []},
    ],
)
def test_measurements_in_a_file_can_be_anything(tmp_path: Path, ask: Ask, metrics: dict[str, Any]) -> None:
    write(tmp_path / "a", rewound(), metrics=metrics)
    for option in ("--json", "--settings"):
        answer = ask("a", option)
        assert answer.code in (0, 1)
        assert "bug" not in answer.err
        assert "a: not finished" in answer.err or "test" in metrics


def test_a_network_of_the_user_is_rebuilt_only_when_confirmed(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_compared.py").write_text(
        "from granet.models import build\n"
        "def network(in_channels, classes, image_size):\n"
        "    return build('lenet-300-100', in_channels=in_channels, classes=classes, image_size=image_size)\n"
    )
    given = recipe(model__name="own_compared:network")
    write(tmp_path / "a", given)
    answer = ask("a", "--json")
    assert answer.json()["groups"][0]["flops"] is None
    assert "names code to run" in answer.err
    assert ask("a", "--json", "--model", "own_compared:network").json()["groups"][0]["flops"] is not None
    assert ask("a", "--model", "another:network").code == 2


# What is named


def test_a_folder_means_the_runs_in_it_ordered_by_number(tmp_path: Path) -> None:
    for number in ("10", "9", "1", "0.05", "0.5", "0.1"):
        write(tmp_path / f"runs/seed-{number}", recipe())
    write_rounds(tmp_path / "runs/z", seed=0, accuracy=0.8)
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/notes.txt").touch()
    report = compared(tmp_path / "runs")
    names = [run.path.name for run in report.runs]
    numbers = ["0.05", "0.1", "0.5", "1", "9", "10"]
    assert names == [*(f"seed-{number}" for number in numbers), "round-01", "round-02", "round-03"]
    assert all("are those of" in problem.message for problem in report.problems)


def test_a_pattern_means_the_folders_that_match_it(tmp_path: Path, ask: Ask) -> None:
    for name in ("a-10", "a-2", "b-1", "[x]"):
        write(tmp_path / name, recipe())
    assert [run["path"] for run in ask("a-*", "--json").json()["runs"]] == ["a-2", "a-10"]
    assert [run["path"] for run in ask("[x]", "--json").json()["runs"]] == ["[x]"]


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "runs/a", recipe())
    (tmp_path / "link").symlink_to(tmp_path / "runs/a")
    answer = ask("runs", "runs/a", "link", "--json")
    assert len(answer.json()["runs"]) == 1
    assert "link: named more than once, as runs/a; counted once" in answer.err


def test_an_empty_name_is_not_the_working_directory(ask: Ask) -> None:
    assert ask("").code == 2


# Table


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a"], "a"),
        (["r/s0", "r/s1", "r/s2"], "r/s{0,1,2}"),
        (["r/s9/x", "r/s10/x"], "r/s{9,10}/x"),
        (["r/11", "r/12"], "r/{11,12}"),
        (["a", "ab"], "a{,b}"),
        (["x" * 50, "y" * 50, "z" * 50], "x" * 50 + " and 2 more"),
    ],
)
def test_several_paths_are_written_as_one(paths: list[str], expected: str) -> None:
    assert brace_paths(paths) == expected


def heading(answer: Answer) -> list[str]:
    return answer.out.splitlines()[0].split()


def test_columns_that_could_not_differ_are_left_out(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "a", recipe())
    plain = ["run", "method", "density", "test", "validation", "FLOPs", "size"]
    assert heading(ask("a")) == plain
    write(tmp_path / "b", dense(name="other"))
    assert heading(ask("a", "b")) == ["run", "recipe", *plain[1:]]
    write(tmp_path / "c", rewound())
    assert heading(ask("a", "c")) == ["run", "method", "rewound", *plain[2:]]
    write(tmp_path / "d", recipe(seed=1))
    assert heading(ask("a", "d")) == ["run", "method", "seeds", *plain[2:]]
    write(tmp_path / "e", recipe(data__name="mnist", data__directory="/mnist"))
    assert heading(ask("a", "e")) == ["run", "data", *plain[1:]]
    write(tmp_path / "f", rewound(seed=1), ancestors=[note("dense")])
    write(tmp_path / "g", rewound(seed=2), ancestors=[note("granet")])
    assert heading(ask("f", "g")) == ["run", "method", "rewound", "after", *plain[2:]]


def test_settings_that_differ_are_named_and_shown_when_asked(tmp_path: Path, ask: Ask) -> None:
    for name, interval in (("a", "10it"), ("b", "30it"), ("c", "10it"), ("d", "10it")):
        lr = 0.01 if name == "d" else 0.02
        write(tmp_path / name, recipe(method__interval=interval, optimizer__learning_rate=lr))
    assert "set differently: method.interval, optimizer.learning_rate; --settings shows how" in ask("a", "b", "d").out
    table = ask("a", "b", "c", "d", "--settings").out.partition("\n\n")[2]
    assert [line.split() for line in table.splitlines()] == [
        ["setting", "rows", "value"],
        ["method.interval", "1,", "3-4", "10it"],
        ["2", "30it"],
        ["optimizer.learning_rate", "1-3", "0.02"],
        ["4", "0.01"],
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("given", "dense granet rigl last"),
        ("density", "dense rigl granet last"),
        ("accuracy", "granet rigl dense last"),
        ("validation", "rigl dense granet last"),
        ("flops", "dense rigl granet last"),
        ("size", "dense rigl granet last"),
        ("method", "dense granet rigl last"),
    ],
)
def test_rows_can_be_sorted(tmp_path: Path, ask: Ask, order: str, expected: str) -> None:
    write(tmp_path / "dense", dense(), accuracy=0.5, validation=0.6)
    write(tmp_path / "granet", recipe(density=0.1), accuracy=0.7, validation=0.5)
    write(tmp_path / "rigl", recipe(method="rigl", density=0.2), accuracy=0.6, validation=0.7)
    write(tmp_path / "last", recipe(method="set", density=0.05), accuracy=None, validation=0.1)
    answer = ask("dense", "granet", "rigl", "last", "--sort", order, "--json")
    assert [group["runs"][0] for group in answer.json()["groups"]] == expected.split()
    assert order in ORDERS


def test_an_unknown_column_is_refused_before_anything_is_read(ask: Ask) -> None:
    answer = ask("nowhere", "--sort", "densty")
    assert answer.code == 2
    assert "Did you mean 'density'?" in answer.err


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, ask: Ask) -> None:
    for seed in (0, 1):
        write(tmp_path / f"s{seed}", recipe(seed=seed), accuracy=0.8 + seed / 10)
    answer = ask("s0", "s1", "nowhere", "--json")
    found = answer.json()
    run, (group,) = found["runs"][1], found["groups"]
    assert {
        *("path", "recipe", "method", "mode", "round", "seed", "model", "data", "density", "active", "parameters"),
        *("validation_accuracy", "test_accuracy", "flops", "bytes", "step", "finished"),
    } <= run.keys()
    assert (run["path"], run["seed"], run["mode"], run["parameters"]) == ("s1", 1, None, SIZE)
    assert group["runs"] == ["s0", "s1"]
    assert group["seeds"] == [0, 1]
    deviation = statistics.stdev([0.8, 0.9])
    assert group["test_accuracy"] == {"mean": pytest.approx(0.85), "deviation": pytest.approx(deviation), "count": 2}
    assert group["flops"]["dense"] == {"mean": 2.0 * SIZE, "deviation": 0.0, "count": 2}
    assert found["problems"][0]["path"] == "nowhere"


def test_names_in_files_do_not_steer_a_terminal(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "a", recipe(name="evil\u202e\u0085", model__name="lenet-300-100"))
    write(tmp_path / "b", recipe(name="good"), metrics={"epochs": [], "lineage": [note("\x1b[2J")]}, accuracy=None)
    answer = ask("a", "b", "--settings")
    assert not set("\x1b\u202e\u0085") & set(answer.out + answer.err)


# Plot


def points(svg: str, number: int) -> list[tuple[float, float]]:
    """Return where the markers of a curve are, in the order in which they are drawn."""
    groups = re.findall(r'<g class="mark-symbol role-mark [^>]*>(.*?)</g>', svg)
    found = re.findall(r"translate\(([\d.]+),([\d.]+)\)", groups[number - 1])
    return [(float(x), float(y)) for x, y in found]


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Methods at several densities, over two seeds each."""
    for seed in (0, 1):
        write(tmp_path / f"runs/dense-{seed}", dense(seed=seed), accuracy=0.9 + seed / 100)
        for density, accuracy in ((0.05, 0.8), (0.1, 0.85), (0.2, 0.88)):
            for method, behind in (("granet", 0.0), ("rigl", 0.02)):
                given = recipe(method=method, density=density, seed=seed)
                write(tmp_path / f"runs/{method}-{density}-{seed}", given, accuracy=accuracy - behind + seed / 100)
    return tmp_path / "runs"


def test_groups_that_differ_in_density_alone_are_a_curve(field: Path) -> None:
    found = curves(compared(field).groups)
    assert [round(group.density, 2) for curve in found for group in curve.groups] == [1.0, *[0.05, 0.1, 0.2] * 2]
    assert labels(found) == ["dense (2 seeds)", "granet (2 seeds)", "rigl (2 seeds)"]


def test_the_plot_has_every_point_in_its_place(field: Path, ask: Ask) -> None:
    answer = ask("runs", "--plot", "a.svg")
    assert answer.code == 0
    svg = Path("a.svg").read_text()
    one, granets, rigls = (points(svg, number) for number in (1, 2, 3))
    assert (len(one), len(granets), len(rigls)) == (1, 3, 3)
    assert [x for x, _ in granets] == sorted(x for x, _ in granets)
    assert granets[1][0] - granets[0][0] == pytest.approx(granets[2][0] - granets[1][0], rel=0.02), "logarithmic"
    assert one[0][1] < granets[2][1] < granets[1][1] < granets[0][1], "upwards is better"
    for better, worse in zip(granets, rigls, strict=True):
        assert better[1] < worse[1]
        assert better[0] == worse[0]
    for text in ("test accuracy, %", "density: active weights, %", "granet (2 seeds)", "sample standard deviation"):
        assert text in svg
    assert re.findall(r">(\d+)</text>", svg)[:5] == ["5", "10", "20", "50", "100"]
    assert ask("runs", "--plot", "b.svg", "--json").json()["groups"]
    assert Path("b.svg").read_text() == svg


def test_single_points_of_one_density_stand_side_by_side(tmp_path: Path, ask: Ask) -> None:
    for method in ("granet", "rigl", "set"):
        write(tmp_path / method, recipe(method=method, density=0.1))
    assert ask("granet", "rigl", "set", "--plot", "a.svg").code == 0
    svg = Path("a.svg").read_text()
    places = [points(svg, number)[0][0] for number in (1, 2, 3)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1]) == pytest.approx(5.0)
    assert "points of one density stand side by side" in svg
    assert re.findall(r">(\d+)</text>", svg)[:3] == ["5", "10", "20"]


def test_a_single_run_can_be_drawn(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "a", recipe(density=0.1, name="$x$ \u4e2d " + "long " * 30))
    assert ask("a", "--plot", "a.PNG").code == 0
    assert Path("a.PNG").read_bytes().startswith(b"\x89PNG")
    assert ask("a", "--plot", "a.svg").code == 0
    assert "deviation" not in Path("a.svg").read_text()


def test_rounds_and_one_shot_rewinds_are_curves_of_their_own(tmp_path: Path) -> None:
    write_rounds(tmp_path / "a", seed=0, accuracy=0.8)
    write_rounds(tmp_path / "b", seed=0, accuracy=0.8, mode="finetune")
    for density in (0.2, 0.1):
        write(tmp_path / f"c/{density}", rewound(densities=(density,)), ancestors=[note()])
    found = curves(compared(tmp_path / "a", tmp_path / "b", tmp_path / "c").groups)
    assert labels(found) == ["LR rewinding, 3 rounds", "fine-tuning, 3 rounds", "LR rewinding"]
    assert [len(curve.groups) for curve in found] == [3, 3, 2]


def test_curves_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "a", recipe(method__interval="10it"))
    write(tmp_path / "b", recipe(method__interval="30it"))
    write(tmp_path / "c", recipe(method="rigl"))
    write(tmp_path / "d", recipe(method="rigl"))
    names = labels(curves(compared(tmp_path).groups))
    again = [f"rigl, {tmp_path / name}" for name in "cd"]  # the same seed twice
    assert names == ["granet, interval 10it", "granet, interval 30it", *again]


def test_settings_are_those_of_each_row_whichever_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "a", rewound("finetune", start=80), ancestors=[note()])
    write(tmp_path / "b", rewound("finetune", start=100, steps=50), ancestors=[note()])
    write(tmp_path / "c", rewound("lr"), ancestors=[note()])
    for order in ("abc", "cba", "bca"):
        groups = compared(*(tmp_path / name for name in order)).groups
        starts = {group.first.path.name: group.settings["rewind.start"] for group in groups}
        assert starts == {"a": 80, "b": 100, "c": 0}


def test_more_curves_than_colours_still_differ() -> None:
    looks = {(colour(number), marker(number), *dash(number)) for number in range(56)}
    assert len(looks) == 56


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "a.gif"], "not an image format that can be written; got a.gif; expected .svg, .png or .pdf"),
        (["--plot", "there.svg"], "Replace it with --overwrite"),
        (["--overwrite"], "there is nothing to overwrite"),
        (["--plot", "a.svg"], "none of the runs has been tested yet"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, ask: Ask, arguments: list[str], message: str) -> None:
    write(tmp_path / "a", recipe(), accuracy=None)
    (tmp_path / "there.svg").write_text("mine")
    answer = ask("a", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert (tmp_path / "there.svg").read_text() == "mine"
    assert not (tmp_path / "a.svg").exists()
