"""``granet rewind`` as its users meet it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from granet.checkpoint import load
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
    density = 0.4
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
    keep_every = "1ep"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in ``a``."""
    folder = tmp_path_factory.mktemp("trained")
    write_image_folder(folder / "images", per_class=20)
    (folder / "tiny.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "granet_cli", "train", "--recipe", "tiny.toml", "--out", "a"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the working directory, cleared of what a test leaves."""
    monkeypatch.chdir(trained)
    for path in trained.iterdir():
        if path.name not in ("images", "tiny.toml", "a"):
            shutil.rmtree(path)
    return trained


def test_a_rewind_from_start_to_finish(granet: Granet, place: Path) -> None:
    answer = granet("rewind", "a/last.safetensors", "--mode", "lr", "--density", 0.1, "--out", "b")
    assert answer.code == 0
    assert "learning rate set back to step 0" in answer.err + answer.out
    assert "0.1000" in answer.out
    assert load(place / "b" / "last.safetensors").metrics["test"]
    inspected = granet("inspect", "b/last.safetensors")
    assert "rewound" in inspected.out
    assert "granet, density 0.4000" in inspected.out
    report = granet("inspect", "b/last.safetensors", "--json").json()
    assert report["rewind"]["mode"] == "lr"
    assert report["lineage"][0]["method"] == "granet"


def test_rounds_as_json(granet: Granet, place: Path) -> None:
    answer = granet(
        *("rewind", "a/last.safetensors", "--mode", "weights", "--to", "1ep"),
        *("--density", 0.1, "--rounds", 2, "--out", "b", "--json"),
    )
    rows = answer.json()["rounds"]
    assert answer.code == 0
    assert [row["round"] for row in rows] == [1, 2]
    assert rows == json.loads((place / "b" / "rounds.json").read_text())
    assert "round 2 of 2 is done" in answer.err


def test_a_dry_run_writes_nothing(granet: Granet, place: Path) -> None:
    before = sorted(place.rglob("*"))
    asked = ("rewind", "a/last.safetensors", "--mode", "lr", "--density", 0.1, "--rate", 0.5, "--dry-run")
    table, report = granet(*asked), granet(*asked, "--json").json()
    assert "2 rounds" in table.out or "nothing was written" in table.out
    assert [entry["steps"] for entry in report["rounds"]] == [12, 12]
    assert report["rounds"][-1]["density"] == pytest.approx(0.1, abs=1e-3)
    assert sorted(place.rglob("*")) == before


def test_without_out_a_new_folder_is_made(granet: Granet, place: Path) -> None:
    for name in ("tiny-lr", "tiny-lr-2"):
        answer = granet("rewind", "a/last.safetensors", "--mode", "lr", "--to", "1ep", "--json")
        assert answer.json()["out"] == f"runs/{name}"


def test_an_unused_new_folder_is_removed(granet: Granet, place: Path) -> None:
    Path("images").rename("moved")
    try:
        answer = granet("rewind", "a/last.safetensors", "--mode", "lr")
        assert answer.code == 1
        assert not (place / "runs").exists()
        answer = granet("rewind", "a/last.safetensors", "--mode", "lr", "--data", "moved", "--to", "1ep")
        assert answer.code == 0
    finally:
        Path("moved").rename("images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a/last.safetensors",), "--mode: this is required"),
        (("--mode", "lr"), "CKPT: this is required"),
        (("nowhere.safetensors", "--mode", "lr"), "nowhere.safetensors"),
        (("images", "--mode", "lr"), "images"),
        (("a/recipe.toml", "--mode", "lr"), "a/recipe.toml"),
        (("a/last.safetensors", "--mode", "weight"), "--mode"),
        (("a/last.safetensors", "--mode", "weights", "--to", "3it"), "one of 0it (0ep), 6it (1ep)"),
        (("a/last.safetensors", "--mode", "lr", "--density", "0.9"), "at most 0.4"),
        (("a/last.safetensors", "--mode", "lr", "--rate", "1.5", "--density", "0.1"), "above 0 and below 1"),
        (("a/last.safetensors", "--mode", "lr", "--set", "seed=3"), "a rewind cannot change this setting"),
        (("a/last.safetensors", "--mode", "lr", "--out", "a"), "holds the checkpoint that is rewound"),
        (("a/last.safetensors", "--mode", "lr", "--overwrite"), "nothing to overwrite"),
        (("--resume", "nowhere"), "no run to resume"),
        (("--resume", "a"), "granet train --resume a"),
        (("--resume", "a", "--density", "0.1"), "not allowed when a rewind is resumed"),
    ],
)
def test_mistakes_are_reported(granet: Granet, place: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(place.rglob("*"))
    answer = granet("rewind", *arguments)
    assert answer.code in (1, 2)
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert sorted(place.rglob("*")) == before


def test_ctrl_c_says_how_to_resume(granet: Granet, place: Path) -> None:
    asked = ["rewind", "a/last.safetensors", "--mode", "lr", "--density", "0.1", "--rounds", "300", "--out", "b"]
    process = subprocess.Popen(
        [sys.executable, "-m", "granet_cli", *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (place / "b" / "round-02" / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "granet rewind --resume b" in err
    assert "Traceback" not in err
    rows = json.loads((place / "b" / "rounds.json").read_text())
    assert len(rows) < 300


def test_help_has_examples(granet: Granet) -> None:
    answer = granet("rewind", "--help")
    assert answer.code == 0
    assert "granet rewind runs/a/last.safetensors --mode lr" in answer.out
