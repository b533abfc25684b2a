"""``granet export --onnx`` and ``granet eval`` of what it wrote, as their users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch

from exporters import metadata, onnx_export, onnx_files, runtime, scoring
from granet.checkpoint import content_hash, load
from granet.data import open_dataset
from granet.models import from_checkpoint
from granet_cli import names
from granet_cli.app import run
from tests import export_networks as networks
from tests.synthetic import write_image_folder

NETWORK = "tests.export_networks:strided"
BEST = "run/best.safetensors"


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Granet = Callable[..., Answer]


@pytest.fixture
def granet(capfd: pytest.CaptureFixture[str]) -> Granet:
    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    with networks.traced_once():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run on the embedded images, its export, and a checkpoint of a network of our own."""
    folder = tmp_path_factory.mktemp("place")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run(["train", "--out", "run", "--device", "cpu", "--epochs", "1", "--model", NETWORK]) == 0
        assert run(["export", "--onnx", BEST, "-o", "sparse.onnx", "--twin", "--model", NETWORK]) == 0
    finally:
        os.chdir(before)
    networks.saved(folder, networks.small)
    networks.saved(folder, networks.two_inputs)
    networks.saved(folder, networks.bessel)
    write_image_folder(folder / "photos", classes=3, size=networks.SIZE)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


# The whole way on the embedded data


@pytest.mark.parametrize("file", ["sparse.onnx", "sparse.dense.onnx"])
def test_file_and_checkpoint_agree_on_every_image(here: Path, file: str) -> None:
    checkpoint = load("run/best.safetensors")
    model = from_checkpoint(checkpoint, factory=NETWORK).eval()
    dataset = open_dataset("fashion-mnist-subset")
    session = runtime.open_session(file)
    compared = 0
    for split in ("validation", "test"):
        start, examples = 0, dataset.split(split)
        for logits, labels in scoring.labelled_logits(session, checkpoint.network, dataset, split):
            images = examples.images[start : start + len(labels)].float().div(255)
            mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (checkpoint.network.mean, checkpoint.network.std))
            with torch.no_grad():
                expected = model((images - mean) / std)
            assert torch.equal(logits.argmax(1), expected.argmax(1))
            torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
            start += len(labels)
        compared += start
    assert compared == 3000


@pytest.mark.parametrize("split", ["test", "validation"])
def test_eval_reports_the_same_for_file_and_checkpoint(granet: Granet, here: Path, split: str) -> None:
    of_file = granet("eval", "sparse.onnx", "--split", split, "--json")
    of_checkpoint = granet("eval", BEST, "--split", split, "--device", "cpu", "--model", NETWORK, "--json")
    assert (of_file.code, of_file.err) == (0, "")
    assert of_file.json().keys() == of_checkpoint.json().keys()
    assert of_file.json()["loss"] == pytest.approx(of_checkpoint.json()["loss"], rel=1e-5)
    for key in ("accuracy", "examples", "split", "data", "step"):
        assert of_file.json()[key] == of_checkpoint.json()[key]


def test_the_report_for_programs(granet: Granet, here: Path) -> None:
    answer = granet(*("export", "--onnx", BEST, "-o", "told.onnx", "--json", "--twin", "--compact", "--model", NETWORK))
    assert answer.code == 0
    told, checkpoint = answer.json(), load("run/best.safetensors")
    assert told["output"] == "told.onnx"
    assert told["bytes"] == Path("told.onnx").stat().st_size
    assert told["dense_bytes"] == Path(told["twin"]).stat().st_size
    assert told["limit_bytes"] < told["bytes"] < told["dense_bytes"]
    assert told["encodings"].keys() == checkpoint.masks.keys()
    assert set(told["encodings"].values()) <= set(names.ENCODINGS)
    assert 0 < told["max_abs_error"] < 1e-3
    assert told["argmax_agreement"] == 1.0
    assert told["examples"]["source"] == "fashion-mnist-subset, validation split"
    assert told["examples"]["real"] == 128
    assert told["content_hash"] == content_hash("run/best.safetensors")
    assert told["compaction"]["flops"]["after"] <= told["compaction"]["flops"]["before"]
    if not told["compaction"]["removed"]:
        assert told["active"] == sum(int(mask.sum()) for mask in checkpoint.masks.values())
    assert json.loads(_metadata("told.onnx")["granet.checkpoint"])["content_hash"] == told["content_hash"]


def _metadata(path: str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_report_for_people(granet: Granet, here: Path) -> None:
    answer = granet(*("export", "--onnx", BEST, "-o", "sparse.onnx", "--overwrite", "--compact", "--model", NETWORK))
    assert answer.code == 0
    assert answer.out.startswith("sparse.onnx")
    for words in ("dense twin's", "entropy limit", "maskable weights active", "against torch on 128 random inputs, "
                  "128 of fashion-mnist-subset", "100.00% the same answer", "bit for bit", "compaction"):  # fmt: skip
        assert words in answer.out
    assert answer.out.isascii()


def test_an_export_prints_only_its_result(here: Path) -> None:
    networks.save_catalogued(Path("lenet.safetensors"), "lenet-300-100")
    line = "-m granet_cli export --onnx lenet.safetensors -o lenet.onnx --json"
    done = subprocess.run([sys.executable, *line.split()], capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["remarks"] == []
    assert done.stderr == ""


# Networks of one's own


def test_a_network_of_the_user_needs_model_and_is_compared_on_its_images(granet: Granet, here: Path) -> None:
    network = "tests.export_networks:small"
    answer = granet("export", "--onnx", "small.safetensors", "-o", "small.onnx")
    assert answer.code == 1
    assert f"--model {network}" in answer.err
    made_up = granet("export", "--onnx", "small.safetensors", "-o", "small.onnx", "--model", network, "--json")
    assert made_up.json()["examples"] == {"random": 128, "real": 0, "source": None}
    assert "note: compared on random inputs only" in made_up.err
    real = granet(
        *("export", "--onnx", "small.safetensors", "-o", "small.onnx", "--model", network, "--data", "photos"),
        *("--overwrite", "--json"),
    )
    assert real.json()["examples"]["source"] == "image-folder, validation split"


def test_example_allows_other_inputs_and_outputs(granet: Granet, here: Path) -> None:
    module = "tests.export_networks"
    answer = granet(
        *("export", "--onnx", "two_inputs.safetensors", "-o", "two.onnx"),
        *("--model", f"{module}:two_inputs", "--example", f"{module}:picture_and_word"),
    )
    assert answer.code == 0
    assert runtime.open_session("two.onnx").outputs == ("output_0", "output_1")
    refused = granet("eval", "two.onnx", "--data", "photos")
    assert (refused.code, "not of the kind" in refused.err) == (1, True)


# Mistakes


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("export --onnx --safetensors run/best.safetensors -o x.onnx", 2, "choose one format"),
        ("export --safetensors run/best.safetensors -o x --compact", 2, "--compact: plain safetensors have no such"),
        ("export --onnx run/best.safetensors -o sparse.onnx", 2, "--overwrite"),
        ("export --onnx run/best.safetensors -o run/best.safetensors --overwrite", 2, "would be overwritten"),
        ("export --onnx run/best.safetensors -o nowhere/x.onnx", 1, "nowhere/x.onnx: the file could not be written"),
        ("export --onnx run/best.safetensors -o photos --overwrite", 1, "photos: a file cannot be written here"),
        ("export --onnx run/recipe.toml -o x.onnx", 1, "not a safetensors file"),
        ("export --onnx sparse.onnx -o x.onnx", 1, "not a checkpoint; got an ONNX file"),
        ("export --onnx nowhere -o x.onnx", 1, "nowhere: the file cannot be read"),
        ("export --onnx run/best.safetensors -o x.onnx --encoding gap8", 2, "Did you mean 'gaps8'?"),
        ("export --onnx run/best.safetensors -o x.onnx --precision fp8", 2, "--precision: unknown precision"),
        ("export --onnx run/best.safetensors -o x.onnx --compute fp16 --precision fp32", 2, "--precision"),
        (f"export --onnx {BEST} -o x.onnx --data nowhere --model {NETWORK}", 2, "neither a dataset nor a folder"),
        (f"export --onnx {BEST} -o x.onnx --data photos --model {NETWORK}", 1, "the network takes other images"),
        ("export --onnx run/best.safetensors -o x.onnx --model resnet20", 2, "the checkpoint holds another network"),
        ("export --onnx bessel.safetensors -o x.onnx --model tests.export_networks:bessel", 1, "bessel_j0"),
        (f"export --onnx {BEST} -o x.onnx --model {NETWORK} --example nowhere:example", 1, "no module 'nowhere'"),
        (f"export --onnx {BEST} -o x.onnx --model {NETWORK} --example nowhere", 2, "package.module:factory"),
        ("eval sparse.onnx --model resnet8", 2, "--model"),
        ("eval sparse.onnx --device tpu", 2, "unknown device"),
        ("eval sparse.onnx --split tset", 2, "Did you mean 'test'?"),
        ("eval sparse.onnx --data photos", 1, "not of the kind that the network was trained on"),
        ("eval nowhere.onnx", 1, "nowhere.onnx: the file cannot be read"),
        ("eval photos.onnx", 1, "not an ONNX model"),
        ("eval foreign.onnx", 1, "does not say for which images and classes"),
        ("eval broken.onnx", 1, "ONNX Runtime cannot open the model"),
    ],
)
def test_a_mistake_is_explained_on_standard_error(
    granet: Granet, here: Path, line: str, code: int, message: str
) -> None:
    _broken_files(here)
    before = sorted(here.rglob("*"))
    answer = granet(*line.split())
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert sorted(here.rglob("*")) == before


def _broken_files(folder: Path) -> None:
    if (folder / "broken.onnx").exists():
        return
    (folder / "photos.onnx").write_text("not a model")
    foreign, broken = onnx_files.read("sparse.dense.onnx"), onnx_files.read("sparse.dense.onnx")
    del foreign.metadata_props[:]
    broken.graph.node[0].op_type = "Bruise"
    onnx_files.write("foreign.onnx", foreign)
    onnx_files.write("broken.onnx", broken)


def test_a_missing_module_is_reported(granet: Granet, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.export_networks", None)
    network = "tests.export_networks:small"
    answer = granet("export", "--onnx", "small.safetensors", "-o", "x.onnx", "--model", network)
    assert answer.code == 1
    assert "tests.export_networks" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": 3}, "expected an object"),
        ({"seed": -1}, "expected an integer"),
        ({"validation": 0.0}, "expected a share"),
        ({"validation": 2}, "expected a share"),
        ({"data": "nothing-like-it"}, "unknown dataset"),
        ({"data": "image-folder"}, "needs a data directory"),
        ({"extra": 1}, "unknown header field"),
        ({"mean": []}, "expected a list of 1 floats"),
        ({"std": [0.0]}, "expected positive numbers"),
        ({"classes": ["a", "a"]}, "expected a list of different texts"),
        ({"image_size": 10**9}, "not of the kind"),
        (None, "not sound JSON"),
    ],
)
def test_metadata_are_not_trusted(
    granet: Granet, here: Path, tmp_path: Path, change: dict[str, Any] | None, message: str
) -> None:
    model = onnx_files.read("sparse.onnx")
    text = next(entry for entry in model.metadata_props if entry.key == metadata.CHECKPOINT)
    if change is None:
        text.value = '{"content_hash": NaN'
    else:
        value = json.loads(text.value)
        (value["network"] if change.keys() & value["network"].keys() else value).update(change)
        text.value = json.dumps(value)
    onnx_files.write(tmp_path / "m.onnx", model)
    answer = granet("eval", tmp_path / "m.onnx")
    assert answer.code in (1, 2)
    assert message in answer.err
    assert "bug" not in answer.err


def test_names_for_completion_are_those_of_the_exporter() -> None:
    assert names.ENCODINGS == onnx_export.ENCODINGS
    assert names.VALUE_PRECISIONS == onnx_export.PRECISIONS
    assert names.COMPUTES == onnx_export.COMPUTES
