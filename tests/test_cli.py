"""The command line as its users meet it: exit codes, standard output and standard error."""

from __future__ import annotations

import errno
import io
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from granet.checkpoint import load
from granet.data import DATASETS, SPLITS
from granet.methods import METHODS
from granet.models import CATALOG
from granet.recipe import Recipe
from granet.runs import events
from granet_cli import names, render
from granet_cli.app import app, run
from granet_cli.overrides import gather
from granet_cli.progress import training_display
from granet_cli.train import session
from tests.commandline import Granet
from tests.synthetic import write_image_folder

RECIPE = """
    name = "tiny"
    [model]
    name = "lenet-300-100"
    [data]
    name = "image-folder"
    directory = "images"
    [method]
    name = "granet"
    density = 0.2
    end = "1ep"
    interval = "2it"
    [optimizer]
    name = "sgd"
    learning_rate = 0.05
    momentum = 0.9
    [schedule]
    name = "constant"
    [training]
    epochs = 2
    batch_size = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its images, and one finished run."""
    folder = tmp_path_factory.mktemp("place")
    write_image_folder(folder / "images", per_class=12)
    (folder / "tiny.toml").write_text(RECIPE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run(["train", "--recipe", "tiny.toml", "--out", "done", "--device", "cpu"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def last(here: Path) -> Path:
    return here / "done/last.safetensors"


# Help and completion


def test_help_and_usage_errors_answer_without_torch() -> None:
    for arguments in ([], ["--help"], ["train", "--help"], ["trian"], ["inspect"]):
        code = f"import sys; from granet_cli.app import run; run({arguments!r}); assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_every_command_explains_itself_with_examples(granet: Granet, command: str) -> None:
    answer = granet(command, "--help")
    assert answer.code == 0
    assert "Examples:\n    granet " + command in answer.out
    assert "--json" in answer.out
    assert "\x1b" not in answer.out


def test_the_version_is_that_of_the_package(granet: Granet) -> None:
    assert granet("--version").out.startswith("granet 0.")


def test_names_for_completion_are_those_of_the_registries() -> None:
    assert list(METHODS) == names.methods()
    assert tuple(CATALOG) == names.MODELS
    assert tuple(DATASETS) == names.DATASETS
    assert names.SPLITS == SPLITS
    assert tuple(names.recipes()) == Recipe.names()
    assert Recipe.settings()["training.precision"].choices == names.PRECISIONS


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--method", "gm"], ["gmp", "gmp-uniform"]),
        (["train", "--recipe", "quick"], ["quickstart"]),
        (["train", "--recipe", "ti"], ["tiny.toml"]),
        (["train", "--data", "im"], ["image-folder", "images/"]),
        (["inspect", "x", "--sort", "d"], ["density"]),
        (["exp"], ["export"]),
    ],
)
def test_the_shell_completes_names(
    granet: Granet, here: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]
) -> None:
    monkeypatch.setenv("_GRANET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["granet", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert granet().out.split() == expected


# Mistakes


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("trian", 2, "Did you mean 'train'?"),
        ("train --densty 0.1", 2, "Did you mean --density?"),
        ("train --density x", 2, "--density"),
        ("train --density 2", 2, "method.density"),
        ("train --method grante", 2, "Did you mean 'granet'?"),
        ("train --model resnet9", 2, "Did you mean 'resnet"),
        ("train --recipe quikstart", 2, "Did you mean 'quickstart'?"),
        ("train --recipe nowhere.toml", 2, "nowhere.toml: no such file"),
        ("train --recipe=", 2, "unknown recipe ''"),
        ("train --out=", 2, "the path is empty"),
        ("train --resume=", 2, "the path is empty"),
        ("train --set method.densty=0.1", 2, "Did you mean method.density?"),
        ("train --set density", 2, "expected section.key=value"),
        ("train --density 0.2 --set method.density=0.3", 2, "given twice; got method.density"),
        ("train --epochs 3 --set training.epochs=4", 2, "given twice; got training.epochs"),
        ("train --data cifar", 2, "Did you mean 'cifar10'?"),
        ("train --data mnist", 2, "--data DIR --set data.name=mnist"),
        ("train --data tiny.toml", 2, "not a folder"),
        ("train --data images --set data.directory=images", 2, "given twice"),
        ("train --initial-density 0.05", 2, "the final density is above the initial one"),
        ("train --set method.end=9999ep", 2, "the prune window ends past the end of training"),
        ("train --set method.interval=10000it", 2, "the interval yields no update"),
        ("train --device tpu", 2, "unknown device"),
        ("train --out done", 2, "--resume done"),
        ("train --overwrite", 2, "--out"),
        ("train --resume nowhere", 2, "there is no run to resume"),
        ("train --resume done --out other", 2, "--out"),
        ("train --resume done --set description=other", 2, "description: asked for other"),
        ("train --resume done --set data.directory=nowhere", 1, "nowhere: no such folder"),
        ("train --resume done --data images --set data.directory=images", 2, "given twice"),
        ("train --recipe tiny.toml --set data.directory=nowhere", 1, "nowhere: no such folder"),
        ("inspect nowhere.safetensors", 1, "nowhere.safetensors"),
        ("inspect tiny.toml", 1, "not a safetensors file"),
        ("inspect done/last.safetensors --layers fc9", 2, "--layers: unknown layer 'fc9'"),
        ("inspect done/last.safetensors --sort densty", 2, "Did you mean 'density'?"),
        ("eval done/last.safetensors --split tset", 2, "Did you mean 'test'?"),
        ("eval done/last.safetensors --model resnet8", 2, "--model: the checkpoint holds another network"),
        ("inspect done/last.safetensors --model mine:net", 2, "--model: the checkpoint holds another network"),
        ("eval done/last.safetensors --data fashion-mnist-subset", 1, "classes of fashion-mnist-subset"),
        ("export done/last.safetensors -o x", 2, "--safetensors"),
        ("export --safetensors done/last.safetensors -o tiny.toml", 2, "--overwrite"),
        ("export --safetensors done/last.safetensors -o done/last.safetensors --overwrite", 2, "would be overwritten"),
        ("list recipies", 2, "Did you mean 'recipes'?"),
    ],
)
def test_a_mistake_is_explained_on_standard_error(
    granet: Granet, here: Path, line: str, code: int, message: str
) -> None:
    before = sorted(here.rglob("*"))
    answer = granet(*line.split())
    assert answer.code == code
    assert answer.out == ""
    assert message in answer.err
    assert "error: " in answer.err
    assert "Traceback" not in answer.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(granet: Granet, here: Path) -> None:
    answer = granet("train", "--device", "cuda")
    assert answer.code == 2
    assert "CUDA is not available" in answer.err


def test_a_bug_is_told_in_one_line_and_its_traceback_on_request(
    granet: Granet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recipe, "names", partial(operator.truediv, 1, 0))
    answer = granet("list", "recipes")
    assert answer.code == 1
    assert answer.err.startswith("error: unexpected ZeroDivisionError: division by zero\n")
    assert "Traceback" not in answer.err
    monkeypatch.setenv("GRANET_DEBUG", "1")
    assert "Traceback" in granet("list", "recipes").err


def test_what_the_system_refuses_is_no_bug(granet: Granet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/file")

    monkeypatch.setattr(Recipe, "names", full)
    answer = granet("list", "recipes")
    assert (answer.code, answer.err) == (1, "error: somewhere/file: No space left on device\n")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_no_bug(granet: Granet, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def greedy() -> None:
        raise error

    monkeypatch.setattr(Recipe, "names", greedy)
    answer = granet("list", "recipes")
    assert answer.code == 1
    assert answer.err.startswith("error: there is too little memory: ")


def test_streams_that_are_closed_are_no_failure() -> None:
    closed = ["sh", "-c", 'exec "$0" -m granet_cli list methods >&-', sys.executable]
    done = subprocess.run(closed, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_failure(last: Path) -> None:
    command = [sys.executable, "-m", "granet_cli", "inspect", str(last)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_names_from_files_cannot_steer_the_terminal() -> None:
    assert render.printable("a\x1b[2Jb\rc\n\u202e") == "a\\x1b[2Jb\\rc\n\\u202e"


# Training


def test_a_run_leaves_its_files_and_tells_about_them(granet: Granet, here: Path) -> None:
    answer = granet("train", "--recipe", "tiny.toml", "--out", "told", "--tensorboard", "--json")
    assert answer.code == 0
    told = answer.json()
    assert {"out", "step", "density", "best", "test"} <= told.keys()
    assert told["out"] == "told"
    assert told["density"] == pytest.approx(0.2, abs=1e-4)
    assert 0 <= told["test"]["accuracy"] <= 1
    for file in ("last.safetensors", "best.safetensors", "recipe.toml", "metrics.jsonl"):
        assert (here / "told" / file).is_file()
    assert list((here / "told/tensorboard").iterdir())
    assert "epoch 2/2: loss " in answer.err
    if not torch.cuda.is_available():
        assert answer.err.count("no GPU found: training on the CPU") == 1
    assert load(here / "told/last.safetensors").recipe.data.directory == str(here / "images")


def test_a_pipe_gets_plain_lines_and_a_summary(granet: Granet, here: Path) -> None:
    answer = granet("train", "--recipe", "tiny.toml", "--out", "plain", "--device", "cpu")
    assert answer.code == 0
    assert "\x1b" not in answer.out + answer.err
    assert "epoch 1/2: loss " in answer.out
    assert "test accuracy" in answer.out
    assert "granet inspect plain/best.safetensors" in answer.out
    assert "no GPU found" not in answer.out


def test_flags_and_assignments_end_up_in_the_recipe(granet: Granet, here: Path) -> None:
    flags = "--method set --density 0.5 --epochs 1 --lr 0.01 --batch-size 4 --seed 7 --set optimizer.momentum=0.5"
    answer = granet("train", "--recipe", "tiny.toml", "--out", "varied", *flags.split())
    assert answer.code == 0
    assert "method set does not use them: end" in answer.err
    recipe = Recipe.load("varied/recipe.toml")
    assert (recipe.method.name, recipe.method.density, recipe.training.epochs) == ("set", 0.5, 1)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.momentum) == (0.01, 0.5)
    assert (recipe.training.batch_size, recipe.seed) == (4, 7)


def test_another_length_moves_the_milestones_and_says_so(granet: Granet, here: Path) -> None:
    answer = granet("train", "--recipe", "tiny.toml", "--out", "longer", "--epochs", "4")
    assert answer.code == 0
    assert "method.end 1ep -> 2ep, training.epochs 2 -> 4" in answer.err
    assert str(Recipe.load("longer/recipe.toml").method.end) == "2ep"


def test_a_folder_beside_embedded_data_is_one_of_images(granet: Granet, here: Path) -> None:
    settings = ["--set", "training.batch_size=8", "--set", "method.interval=1it", "--epochs", "1"]
    answer = granet("train", "--data", "images", "--model", "lenet-300-100", "--out", "photos", *settings)
    assert answer.code == 0
    data = Recipe.load("photos/recipe.toml").data
    assert (data.name, data.directory) == ("image-folder", str(here / "images"))


def test_runs_without_out_get_folders_of_their_own(granet: Granet, here: Path) -> None:
    flags = ["--recipe", "tiny.toml", "--set", "training.epochs=1", "--json"]
    assert [granet("train", *flags).json()["out"] for _ in range(2)] == ["runs/tiny-granet", "runs/tiny-granet-2"]


def test_runs_that_start_at_the_same_moment_get_different_folders(here: Path) -> None:
    asked = gather({}, [])
    both = [
        session.new_session("tiny.toml", asked, None, overwrite=False, download=False).folder.path for _ in range(2)
    ]
    assert both[0] != both[1]
    for folder in both:
        folder.rmdir()


HANDMADE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(192, classes)

    def forward(self, images):
        return self.layer(images.flatten(1) if images.sum().item() < 1e9 else images.flatten(1) * 0)
"""


def test_a_network_whose_costs_cannot_be_seen_is_summed_up_without(granet: Granet, here: Path) -> None:
    (here / "handmade.py").write_text(HANDMADE)
    answer = granet("train", "--recipe", "tiny.toml", "--model", "handmade:Net", "--out", "handmade")
    assert answer.code == 0
    assert "test accuracy" in answer.out
    assert "FLOPs" not in answer.out


def test_sigterm_saves_and_says_how_to_go_on(here: Path, granet: Granet) -> None:
    command = [sys.executable, "-m", "granet_cli", "train", "--recipe", "tiny.toml", "--out", "cut off"]
    command += ["--set", "training.epochs=100000", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if line.startswith("epoch 1/"))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "granet train --resume 'cut off' --device cpu\n" in err
    assert load(here / "cut off/last.safetensors").step > 0


# Resuming


def test_a_finished_run_resumes_to_itself(granet: Granet, last: Path) -> None:
    before = last.read_bytes()
    answer = granet("train", "--resume", "done", "--device", "cpu", "--density", "0.2", "--epochs", "2", "--json")
    assert answer.code == 0
    assert answer.json()["test"] == load(last).metrics["test"]
    assert last.read_bytes() == before


def test_a_finished_run_that_was_tidied_up_still_tells_its_results(granet: Granet, here: Path) -> None:
    shutil.copytree("done", "tidied")
    for name in ("best.safetensors", "metrics.jsonl", "recipe.toml"):
        Path("tidied", name).unlink()
    answer = granet("train", "--resume", "tidied")
    assert answer.code == 0
    assert "test accuracy" in answer.out
    assert "recipe.toml" not in answer.out


def test_contradicting_settings_are_listed_each(granet: Granet, last: Path) -> None:
    before = last.read_bytes()
    flags = "--density 0.5 --lr 0.3 --epochs 9 --seed 0 --method set --data mnist --set data.augment=crop"
    answer = granet("train", "--resume", "done", *flags.split())
    assert answer.code == 2
    for line in (
        "method.density: asked for 0.5, the run has 0.2",
        "optimizer.learning_rate: asked for 0.3, the run has 0.05",
        "training.epochs: asked for 9, the run has 2",
        "method.name: asked for set, the run has granet",
        "data.name: asked for mnist, the run has image-folder",
        "data.augment: asked for crop, the run has none",
    ):
        assert f"\n  {line}\n" in answer.err
    assert "seed" not in answer.err
    assert last.read_bytes() == before


def test_the_recipe_of_a_run_may_be_repeated_but_not_exchanged(granet: Granet, here: Path) -> None:
    assert granet("train", "--resume", "done", "--recipe", "tiny.toml").code == 0
    answer = granet("train", "--resume", "done", "--recipe", "quickstart")
    assert answer.code == 2
    assert "model.name: asked for resnet8, the run has lenet-300-100" in answer.err


def test_data_that_moved_are_found_again(granet: Granet, here: Path) -> None:
    (here / "images").rename(here / "elsewhere")
    try:
        assert granet("train", "--resume", "done").code == 1
        assert granet("train", "--resume", "done", "--data", "elsewhere").code == 0
        assert granet("train", "--resume", "done", "--set", "data.directory=elsewhere").code == 0
        assert granet("eval", "done/last.safetensors", "--data", "elsewhere").code == 0
    finally:
        (here / "elsewhere").rename(here / "images")


# Looking inside


def test_inspect_prints_only_json(granet: Granet, last: Path) -> None:
    answer = granet("inspect", last, "--json")
    assert answer.code == 0
    assert answer.err == ""
    report, checkpoint = answer.json(), load(last)
    assert report["step"] == checkpoint.step
    assert report["parameters"] == sum(mask.numel() for mask in checkpoint.masks.values())
    assert report["active"] == sum(int(mask.sum()) for mask in checkpoint.masks.values())
    assert report["density"] == report["active"] / report["parameters"]
    assert [layer["name"] for layer in report["layers"]] == list(checkpoint.masks)
    assert {"name", "shape", "parameters", "active", "density"} <= report["layers"][0].keys()
    assert report["flops"].keys() == {"dense", "active"}


def test_inspect_shows_a_plain_table_in_a_pipe(granet: Granet, last: Path) -> None:
    answer = granet("inspect", last)
    assert answer.code == 0
    assert answer.out.isascii()
    assert "\x1b" not in answer.out
    assert "recipe tiny: granet on lenet-300-100" in answer.out
    total = next(line for line in answer.out.splitlines() if line.startswith("total"))
    assert total.split()[-1] == "100.0%"


def test_layers_are_chosen_and_sorted(granet: Granet, last: Path) -> None:
    chosen = granet("inspect", last, "--layers", "fc[12]", "--sort", "density", "--json").json()["layers"]
    assert {layer["name"] for layer in chosen} == {"fc1.weight", "fc2.weight"}
    assert chosen[0]["density"] >= chosen[1]["density"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal(here: Path, last: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen, terminal = _terminal(monkeypatch, width)
    from granet.analysis.inspection import inspect
    from granet_cli.inspect.view import show

    report = inspect(load(last))
    show(screen, last, report, report.layers)
    table = _without_escapes(terminal).partition("layer ")[2].splitlines()
    assert all(len(line) <= width for line in table)


def test_eval_gives_the_test_accuracy_of_the_run(granet: Granet, here: Path) -> None:
    answer = granet("eval", "done/best.safetensors", "--device", "cpu", "--json")
    assert answer.code == 0
    assert answer.err == ""
    test = load("done/last.safetensors").metrics["test"]
    assert answer.json()["accuracy"] == test["accuracy"]
    assert answer.json()["loss"] == pytest.approx(test["loss"])
    assert (answer.json()["split"], answer.json()["examples"]) == ("test", test["examples"])


def test_eval_takes_a_split(granet: Granet, here: Path) -> None:
    answer = granet("eval", "done/best.safetensors", "--split", "validation")
    assert answer.code == 0
    assert "image-folder, validation split" in answer.out


def test_export_writes_what_other_tools_read(granet: Granet, here: Path) -> None:
    from safetensors.torch import load_file

    answer = granet("export", "--safetensors", "done/best.safetensors", "-o", "model.safetensors", "--json")
    assert answer.code == 0
    weights = load_file("model.safetensors")
    assert answer.json()["tensors"] == len(weights)
    assert all(torch.equal(weights[name], weight) for name, weight in load("done/best.safetensors").weights.items())


@pytest.mark.parametrize(
    ("catalog", "expected"),
    [("recipes", Recipe.names()), ("models", CATALOG), ("methods", METHODS), ("datasets", DATASETS)],
)
def test_catalogs_are_listed_with_descriptions(granet: Granet, catalog: str, expected: Any) -> None:
    entries = granet("list", catalog, "--json").json()
    assert [entry["name"] for entry in entries] == list(expected)
    assert all(entry["description"] for entry in entries)
    assert all(name in granet("list", catalog).out for name in expected)


# On a terminal


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> tuple[render.Screen, _Terminal]:
    for name, value in {"COLUMNS": str(width), "LINES": "30", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    return render.Screen(), terminal


def _without_escapes(terminal: _Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


STARTED = events.Started(
    **{"folder": Path("x"), "device": "CPU, 2 threads", "on_gpu": False, "precision": "fp32", "step": 0},
    **{"total_steps": 20, "steps_per_epoch": 10, "epochs": 2, "parameters": 100, "density": 1.0},
    examples={"train": 900, "validation": 100, "test": 200},
)
PROGRESSED = events.Progressed(
    **{"step": 5, "epoch": 1, "loss": 1.5, "accuracy": 0.4, "density": 0.9},
    **{"learning_rate": 0.1, "images_per_second": 3000.0, "seconds_left": 90.0},
)
EPOCH_ENDED = events.EpochEnded(
    **{"epoch": 1, "step": 10, "loss": 1.25, "accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.625},
    **{"density": 0.5, "learning_rate": 0.1, "images_per_second": 3000.0, "best": True},
)


def test_a_terminal_sees_a_row_an_epoch_above_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, terminal = _terminal(monkeypatch, 80)
    with training_display(screen, stopping=lambda: True, device_asked="auto") as tell:
        for event in (STARTED, PROGRESSED, EPOCH_ENDED):
            tell(event)
    text = _without_escapes(terminal)
    assert "no GPU found: training on the CPU, 2 threads, fp32" in text
    assert "    1   1.2500    50.00%      62.50%   0.5000     3.00k  best so far" in text
    assert "stopping: epoch 1/2" in text
    assert "1:30 left" in text
    assert "step 5/20" in text


@pytest.mark.parametrize("failure", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left on device")])
def test_output_that_goes_nowhere_does_not_stop_training(failure: OSError) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise failure

    screen = render.Screen()
    screen.file = Gone()
    with training_display(screen, stopping=lambda: False, device_asked="auto") as tell:
        for event in (STARTED, PROGRESSED, EPOCH_ENDED):
            tell(event)
    assert screen.quiet


def test_no_color_is_respected_and_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, terminal = _terminal(monkeypatch, 80)
    screen.print(render.bar(0.5, 10, screen))
    assert "\x1b[3" not in terminal.getvalue()
    monkeypatch.delenv("NO_COLOR")
    screen = render.Screen()
    screen.print(render.bar(0.5, 10, screen))
    assert "\x1b[3" in terminal.getvalue()


def test_rewind_points_by_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--keep-every", "10epochs", "--out", str(tmp_path / "a")]) == 2
    assert "training.keep_every" in capsys.readouterr().err
