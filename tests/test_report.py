"""``granet report``: its data, what it refuses, and a page without scripts or requests."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from fuzz.forgery import edited
from granet import flops
from granet.analysis import run_report as analysis
from granet.analysis.report import RunsReport, report
from granet.checkpoint import load, save
from granet.errors import CheckpointError, Interrupted
from granet.models import build
from granet.recipe import Recipe
from granet.runs.events import Started, Updated
from granet.runs.sessions import recording
from granet.training import RunFolder, train
from granet_cli.charts.palette import DARK, LIGHT
from granet_cli.charts.parts import apart, linear_axis, percent_axis, share, thinned
from granet_cli.report.page import page
from tests.commandline import Granet
from tests.synthetic import write_image_folder

CPU = torch.device("cpu")
EPOCHS, PER_EPOCH, BATCH = 3, 6, 12
STOPPED = 8  # the step of the second update
EVIL = '<script>alert("1")</script>&amp;\u202e'


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)


def recipe(images: Path, method: str = "granet", *, name: str = "tiny", **settings: Any) -> Recipe:
    own: dict[str, dict[str, Any]] = {
        "granet": {"density": 0.2, "interval": "4it", "end": "9it"},
        "rigl": {"density": 0.3, "interval": "4it"},
        "snfs": {"density": 0.3, "interval": "4it"},
        "dense": {},
    }
    return Recipe.from_dict(
        {
            "name": name,
            "model": {"name": "lenet-300-100"},
            "data": {"name": "image-folder", "directory": str(images)},
            "method": {"name": method, **own[method]},
            "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
            "schedule": {"name": "cosine"},
            "training": {"epochs": EPOCHS, "batch_size": BATCH},
            **settings,
        }
    )


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: two seeds of granet, rigl, a dense one, and one that was stopped after an epoch."""
    root = tmp_path_factory.mktemp("trained")
    for name, method, seed in (("a", "granet", 0), ("b", "granet", 1), ("dense", "dense", 0), ("snfs", "snfs", 0)):
        train(recipe(images, method, seed=seed), RunFolder(root / name), CPU)
    seen: list[object] = []

    def updates() -> int:
        return sum(isinstance(event, Updated) for event in seen)

    with pytest.raises(Interrupted):
        train(recipe(images, "rigl"), RunFolder(root / "stopped"), CPU, watch=seen.append, stop=lambda: updates() == 2)
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture(scope="module")
def reported(trained: Path) -> RunsReport:
    return report([str(trained)])


class Reader(HTMLParser):
    """Reads a page as strictly as it is written: every element that is opened is closed, in its order."""

    VOID = frozenset({"meta", "br", "col"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# Data


def test_the_report_of_a_run_agrees_with_its_checkpoint(reported: RunsReport, trained: Path) -> None:
    a = reported.runs[0]
    last = load(trained / "a" / "last.safetensors")
    assert (a.summary.path, a.state, a.begins_at, a.steps_per_epoch) == (trained / "a", "finished", 0, PER_EPOCH)
    assert [epoch.step for epoch in a.epochs] == [6, 12, 18]
    assert [epoch.validation_loss for epoch in a.epochs] == [e["validation_loss"] for e in last.metrics["epochs"]]
    assert a.history is not None
    assert a.history.end.active == sum(int(mask.sum()) for mask in last.masks.values())
    assert a.active_parameters == sum(int((weight != 0).sum()) for name, weight in last.masks.items()) + sum(
        weight.numel() for name, weight in last.weights.items() if name not in last.masks
    )
    assert reported.as_json() == json.loads(json.dumps(reported.as_json()))


def by_hand(folder: Path, method: str) -> float:
    """Training FLOPs from what the metrics say of each layer: three passes a step, dense gradients at updates."""
    last = load(folder / "last.safetensors")
    network = build("lenet-300-100", in_channels=3, classes=3, image_size=8)
    costs = flops.layers(network, (3, 8, 8))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    changes = {line["step"]: line["layers"] for line in lines if line["event"] == "update"}
    swaps = {line["step"] for line in lines if line["event"] == "update" and line["dropped"]}
    shares = dict.fromkeys(costs, 1.0)
    if method == "snfs":
        past = analysis.read(folder).history
        assert past is not None
        shares |= {name: count / last.masks[name].numel() for name, count in past.before.layers.items()}
    dense, total = sum(costs.values()), 0.0
    for step in range(1, EPOCHS * PER_EPOCH + 1):
        sparse = sum(cost * shares[name] for name, cost in costs.items())
        # GraNet needs the gradients of all weights when it swaps, SNFS at every step.
        needed = method == "snfs" or (method == "granet" and step in swaps)
        total += 2 * sparse + (dense if needed else sparse)
        for name, count in changes.get(step, {}).items():
            shares[name] = count / last.masks[name].numel()
    return total * BATCH


@pytest.mark.parametrize(("number", "name", "method"), [(0, "a", "granet"), (2, "dense", "dense"), (3, "snfs", "snfs")])
def test_training_flops_are_those_of_the_masks_of_each_step(
    reported: RunsReport, trained: Path, number: int, name: str, method: str
) -> None:
    run = reported.runs[number]
    assert run.summary.path.name == name
    assert run.training_flops is not None
    assert run.training_flops["active"] == pytest.approx(by_hand(trained / name, method), rel=1e-12)
    assert run.training_flops["dense"] == pytest.approx(by_hand(trained / "dense", "dense"), rel=1e-12)


def test_a_stopped_run_is_reported_as_of_its_checkpoint(reported: RunsReport) -> None:
    run = reported.runs[4]
    assert (run.state, run.summary.step, len(run.epochs)) == ("interrupted", STOPPED, 1)
    assert run.history is not None
    assert run.history.step == STOPPED
    assert run.training_flops is not None
    assert run.training_flops["dense"] * EPOCHS * PER_EPOCH == reported.runs[2].training_flops["dense"] * STOPPED  # type: ignore[index]
    assert run.cautions == ()
    assert "not finished" in reported.remarks[0].message


@pytest.mark.parametrize("method", ["granet", "dense"])
def test_a_run_at_step_0_is_reported(images: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(Interrupted):
        train(recipe(images, method), RunFolder(tmp_path / "run"), CPU, stop=lambda: True)
    reported = report([str(tmp_path / "run")])
    assert (reported.runs[0].summary.step, reported.runs[0].epochs, reported.runs[0].seconds) == (0, (), None)
    assert reported.runs[0].training_flops == {"active": 0, "dense": 0}
    assert "interrupted, at step 0 of 18" in Reader(page(reported)).text
    assert "not measured yet" in Reader(page(reported)).text


def test_the_time_is_that_of_the_recorded_speeds(runs: Path) -> None:
    metrics = runs / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if line["event"] == "epoch":
            line["images_per_second"] = 10.0 * line["epoch"]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "epoch", "ep')
    run = analysis.read(runs / "a")
    assert run.seconds == pytest.approx(72 / 10 + 72 / 20 + 72 / 30)
    assert run.notes == ()
    metrics.write_text("[]\n")
    run = analysis.read(runs / "a")
    assert run.seconds is None
    assert run.notes == ("metrics.jsonl is damaged: line 1 is not what a run writes",)
    metrics.unlink()
    assert analysis.read(runs / "a").notes == ("it has no metrics.jsonl, so its time is unknown",)


def test_a_run_that_another_process_holds_is_running(runs: Path) -> None:
    descriptor = os.open(runs / "stopped", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert analysis.read(runs / "stopped").state == "running"
        assert f"running, at step {STOPPED} of 18" in Reader(page(report([str(runs / "stopped")]))).text
    finally:
        os.close(descriptor)
    assert analysis.read(runs / "stopped").state == "interrupted"


def test_a_run_that_changes_while_it_is_read_is_read_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "_PAUSE", 0)
    real, reads = analysis._read, []

    def growing(folder: Path, factory: str | None) -> analysis.RunReport:
        found = real(folder, factory)
        reads.append(found)
        if len(reads) == 1:
            shutil.copytree(runs / "a", folder, dirs_exist_ok=True)
        return found

    monkeypatch.setattr(analysis, "_read", growing)
    assert analysis.read(runs / "b").summary.seed == 0  # the run that it has become, and not the one that it was
    assert len(reads) == 2

    def restless(folder: Path, factory: str | None) -> analysis.RunReport:
        shutil.copytree(runs / ("a" if len(reads) % 2 else "dense"), folder, dirs_exist_ok=True)
        reads.append(real(folder, factory))
        return reads[-1]

    monkeypatch.setattr(analysis, "_read", restless)
    shutil.copy(runs / "dense" / "history.bin", runs / "a" / "history.bin.aside")
    (runs / "b" / "history.bin").unlink()
    for name in ("a", "dense"):
        (runs / name / "history.bin").unlink()
    with pytest.raises(CheckpointError, match="being written to"):
        analysis.read(runs / "b")


def test_rounds_are_shown_as_their_runs(runs: Path, granet: Granet) -> None:
    (runs / "a" / "rewind.toml").write_text("")
    for number, name in ((1, "b"), (2, "stopped")):
        shutil.copytree(runs / name, runs / "a" / f"round-{number:02d}")
    found = granet("report", runs / "a", "--json").json()
    assert [Path(run["path"]).name for run in found["runs"]] == ["round-01", "round-02"]


def test_where_a_run_was_trained_is_recorded_and_shown(images: Path, tmp_path: Path, granet: Granet) -> None:
    (tmp_path / "tiny.toml").write_text(recipe(images).to_toml())
    out = tmp_path / "run"
    assert granet("train", "--recipe", tmp_path / "tiny.toml", "--out", out, "--device", "cpu").code == 0
    (session,) = analysis.read(out).sessions
    assert session.step == 0
    assert session.facts["torch"] == torch.__version__
    assert str(session.facts["device"]).startswith("CPU")
    assert granet("train", "--resume", out).code == 0  # nothing was left to do
    assert len(analysis.read(out).sessions) == 1
    text = Reader(page(report([str(out)]))).text
    assert torch.__version__ in text
    assert str(session.time)[:16].replace("T", " ") in text
    train(recipe(images), RunFolder(out), CPU, overwrite=True)
    assert analysis.read(out).sessions == ()  # that was another run


def test_sessions_are_recorded_in_order(tmp_path: Path) -> None:
    started = Started(
        folder=tmp_path,
        device="CPU",
        on_gpu=False,
        precision="fp32",
        step=0,
        total_steps=18,
        steps_per_epoch=6,
        epochs=3,
        parameters=1,
        density=1.0,
        examples={},
    )
    seen: list[object] = []
    watch = recording(seen.append)
    for step in (0, 8, 18):
        watch(dataclasses.replace(started, step=step))
    lines = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 8]
    assert len(seen) == 3


# What is not reported


def damage(path: Path, place: float = 0.9) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(data)


def newer(path: Path) -> None:
    path.write_bytes(edited(path.read_bytes(), lambda parts: parts.fields.update(version=[3, 0])))


def newer_history(path: Path) -> None:
    data = path.read_bytes()
    begin = data.index(b"{")
    body = data[begin : begin + data[begin:].index(b"]}") + 2].replace(b'"version":[2', b'"version":[3')
    path.write_bytes(data[:begin] + body + zlib.crc32(body, zlib.crc32(data[:8])).to_bytes(4, "little"))


def half_saved(folder: Path) -> None:
    value = load(folder / "best.safetensors")
    last = load(folder / "last.safetensors")
    del last.metrics["test"]
    save(folder / "last.safetensors", dataclasses.replace(last, step=value.step - 1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: damage(run / "last.safetensors"), "last.safetensors"),
        (lambda run: newer(run / "last.safetensors"), "Install a newer granet"),
        (lambda run: newer_history(run / "history.bin"), "got version 3.0"),
        (lambda run: (run / "last.safetensors").unlink(), "no checkpoint yet"),
        (lambda run: (run / "best.safetensors").unlink(), "best.safetensors"),
        (lambda run: (run / "best.safetensors").write_bytes(b""), "best.safetensors"),
        (lambda run: damage(run / "history.bin"), "history.bin"),
        (lambda run: (run / "history.bin").write_bytes(b"\x93granet\n"), "history.bin"),
        (half_saved, "saving was cut short"),
        (shutil.rmtree, "nothing of this name is there"),
    ],
)
def test_a_damaged_run_is_named_and_not_shown(
    spoil: Any, said: str, runs: Path, granet: Granet, tmp_path: Path
) -> None:
    spoil(runs / "a")
    out = tmp_path / "page.html"
    answer = granet("report", runs / "a", "-o", out)
    assert answer.code == 1
    assert said in answer.err
    assert not out.exists()
    answer = granet("report", runs / "a", runs / "b", "-o", out)
    assert answer.code == 0
    assert said in answer.err
    read = Reader(out.read_text())
    assert "Not shown" in read.text
    assert said in read.text
    assert [attributes["id"] for attributes in read.every("article")] == ["run-1"]
    assert not any(cell == str(runs / "a") for cell in read.words)  # in the reason alone


def test_a_run_without_a_history_says_so(runs: Path) -> None:
    (runs / "a" / "history.bin").unlink()
    run = analysis.read(runs / "a")
    assert run.history is None
    assert run.training_flops is None
    text = Reader(page(report([str(runs / "a")]))).text
    assert "what its masks did over time is unknown" in text
    assert "Density of each layer" not in text


def test_a_mistyped_folder_gets_a_suggestion(runs: Path, granet: Granet) -> None:
    answer = granet("report", runs / "stoped", "--json")
    assert answer.code == 1
    assert f"Did you mean {runs / 'stopped'}?" in answer.err
    assert answer.out == ""


# The page


def test_the_page_has_no_script_and_fetches_nothing(reported: RunsReport) -> None:
    text = page(reported)
    read = Reader(text)
    assert not re.search(r"(?i)https?:|url\(|@import|javascript:|data:", text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"} & {
        name for name, _ in read.elements
    }
    for name, attributes in read.elements:
        assert not any(key.startswith("on") or key in ("src", "srcset", "style") for key in attributes), name
        assert str(attributes.get("href", "#")).startswith("#")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = (meta["content"] for meta in read.every("meta") if meta.get("http-equiv"))
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_links_lead_somewhere_and_charts_have_descriptions(reported: RunsReport) -> None:
    read = Reader(page(reported))
    ids = Counter(attributes["id"] for _, attributes in read.elements if "id" in attributes)
    assert max(ids.values()) == 1
    for link in read.every("a"):
        assert str(link["href"])[1:] in ids
    pictures = [svg for svg in read.every("svg") if svg.get("role") == "img"]
    assert len(pictures) >= 7 + 4  # the curves, and the layers of every run with updates
    for svg in pictures:
        assert all(name in ids for name in str(svg["aria-labelledby"]).split())
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in read.every("svg"))
    assert read.every("html") == [{"lang": "en"}]
    assert len(read.every("h1")) == len(read.every("main")) == 1
    assert "cross-entropy" in read.text
    assert "accuracy, %" in read.text
    assert "epoch" in read.text


def test_text_and_curves_have_enough_contrast() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear_ = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear_[0] + 0.7152 * linear_[1] + 0.0722 * linear_[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for colours in (LIGHT, DARK):
        for name in ("ink", "faint", "link"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
            assert contrast(colours[name], colours["panel"]) >= 4.5, name
        for name in ("c0", "c1", "c2", "c3", "c4", "warn"):
            assert contrast(colours[name], colours["paper"]) >= 3, name


def test_text_of_runs_is_escaped(images: Path, tmp_path: Path, granet: Granet) -> None:
    folder = tmp_path / 'runs"><b onload=x>'
    train(recipe(images, name=EVIL, description="</style></svg><svg onload=alert(1)>"), RunFolder(folder), CPU)
    for files in (folder.glob("*.safetensors"),):
        for path in files:
            value = load(path)
            network = dataclasses.replace(value.network, classes=("<i>", "b", "c"))
            value.metrics["lineage"] = [{"hash": EVIL, "recipe": EVIL, "method": EVIL, "mode": EVIL, "round": EVIL}]
            save(path, dataclasses.replace(value, network=network))
    out = tmp_path / "page.html"
    answer = granet("report", folder, tmp_path / "<none>", "-o", out)
    assert answer.code == 0, answer.err
    text = out.read_text()
    read = Reader(text)
    assert not {"script", "b", "i"} & {name for name, attributes in read.elements if attributes}
    assert "<script" not in text
    assert "\u202e" not in text
    assert EVIL.replace("\u202e", "\\u202e") in read.text
    assert 'runs"><b onload=x>' in read.text
    assert "<none>: nothing of this name is there" in read.text
    assert not any(key.startswith("on") for _, attributes in read.elements for key in attributes)


def test_equal_runs_are_equal_pages(trained: Path, granet: Granet, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        assert granet("report", trained, "-o", tmp_path / name).code == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert len((tmp_path / "one.html").read_bytes()) < 250_000


def test_one_run_has_its_curves_in_pairs(trained: Path) -> None:
    read = Reader(page(report([str(trained / "a")])))
    labels = Counter(word for word in read.words if word in ("training", "validation"))
    assert labels == {"training": 2, "validation": 2}
    assert "Settings that differ" not in read.text


def test_settings_that_differ_and_means_over_seeds_are_shown(reported: RunsReport) -> None:
    read = Reader(page(reported))
    assert "method.name" in read.words
    assert "Over seeds: mean ± sample standard deviation, in points" in read.words
    mean = reported.groups[0].test_accuracy
    assert mean is not None
    assert f"{100 * mean.mean:.2f}% ± {100 * (mean.deviation or 0):.2f}" in read.words


def test_the_size_of_a_page_is_bounded(reported: RunsReport) -> None:
    one = reported.runs[0]
    epoch = one.epochs[0]
    epochs = tuple(dataclasses.replace(epoch, epoch=n, step=n, loss=float(n % 7)) for n in range(1, 5001))
    history = one.history
    assert history is not None
    updates = tuple(dataclasses.replace(history.updates[0], step=n, epoch=n / 6) for n in range(1, 5001))
    history = dataclasses.replace(history, updates=updates, step=5001)
    run = dataclasses.replace(one, epochs=epochs, history=history)
    many = tuple(
        dataclasses.replace(run, summary=dataclasses.replace(run.summary, path=Path(f"runs/{number}")))
        for number in range(40)
    )
    group = dataclasses.replace(reported.groups[0], runs=tuple(run.summary for run in many))
    text = page(dataclasses.replace(reported, runs=many, groups=(group,), remarks=(), problems=()))
    assert len(text) < 1_500_000
    words = Reader(text).text
    assert "Curves are those of the first 20 runs" in words
    assert "of longer ones the lowest and highest value of each stretch" in words
    assert "28 more runs have no section" in words
    assert "fewer than there were updates" in words


# The command


def test_json_is_the_data_and_nothing_else(trained: Path, granet: Granet, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    answer = granet("report", trained / "a", "--json", "-o", out)
    assert answer.code == 0
    found = answer.json()
    assert found["runs"][0]["test_accuracy"] == load(trained / "a" / "last.safetensors").metrics["test"]["accuracy"]
    assert found["runs"][0]["settings"]["method"]["name"] == "granet"
    assert set(found) == {"runs", "groups", "problems", "remarks", "software"}
    assert out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "-o report.html"),
        (["--overwrite", "--json"], "nothing to overwrite"),
        (["-o", "page.txt"], "ends in .html"),
        (["-o", "there.html"], "the file exists"),
        (["-o", "nowhere/page.html"], "no such folder"),
        (["--json", "--model", "resnet8"], "none of the runs has this network"),
    ],
)
def test_options_that_cannot_work_are_refused(
    arguments: list[str], said: str, trained: Path, granet: Granet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.html").write_text("mine")
    answer = granet("report", trained / "a", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""
    assert Path("there.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]


def test_a_page_is_replaced_when_asked_to(trained: Path, granet: Granet, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    assert granet("report", trained / "a", "-o", out, "--overwrite").code == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


# Parts


def test_a_thinned_curve_keeps_ends_and_extremes() -> None:
    points = [(float(n), 0.0) for n in range(1000)]
    points[500], points[700] = (500.0, 9.0), (700.0, -9.0)
    kept = thinned(points, 50)
    assert len(kept) <= 50
    assert {points[0], points[500], points[700], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points, 1000) == points


def test_axes_hold_all_values() -> None:
    axis = linear_axis("loss", [0.31, 1.38, float("nan")])
    assert 0 < share(axis, 0.31) < share(axis, 1.38) < 1
    low, high = linear_axis("loss", [5.0, 5.0])["scale"]["domain"]
    assert low < 5 < high
    axis = percent_axis("density, %", [4.2, 100])
    assert axis["axis"]["values"] == [2, 5, 10, 20, 50, 100]
    assert 0 < share(axis, 4.2) < share(axis, 100) < 1
    assert share(axis, 0) == 0


def test_labels_move_apart_as_little_as_needed() -> None:
    assert apart([10, 50], 100, distance=12) == [10, 50]
    assert apart([50, 50, 52], 100, distance=12) == pytest.approx([38.67, 50.67, 62.67], abs=0.01)
    assert apart([99, 100], 100, distance=12) == [88, 100]
