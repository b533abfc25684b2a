"""Methods of users, named as package.module:Class: they work like granet's own once confirmed, and never run before."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from granet.checkpoint import load
from granet.errors import RecipeError, UsageError
from granet.methods import METHODS, confirm, registry
from granet.methods.settings import settings_of
from granet.recipe import Duration, Recipe, build_method
from granet_cli.app import run
from tests.commandline import Granet
from tests.test_docs import ROOT, blocks, commands

NAME = "my_methods:FlooredGMP"
TRAIN = f"train --method {NAME} --epochs 1 --batch-size 900 --set method.interval=2it --set method.end=6it"
SETTINGS = {"name": NAME, "density": 0.2, "interval": "20it", "end": "100it", "floor": 0.05}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the method of CONTRIBUTING.md, which nobody has confirmed."""
    (listing,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    (tmp_path / "my_methods.py").write_text(listing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_confirmed", {})
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would begin."""
    monkeypatch.setattr(registry, "_confirmed", {})
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)


def recipe(**settings: object) -> Recipe:
    data = Recipe.load("quickstart").as_dict()
    return Recipe.from_dict({**data, "method": {**SETTINGS, **settings}})


def test_the_method_of_contributing_trains_and_is_verified(here: Path) -> None:
    for command in commands(ROOT / "CONTRIBUTING.md"):
        assert run(command[1:]) == 0
    checkpoint = load(here / "runs" / "floored" / "last.safetensors")
    assert checkpoint.recipe.method.name == NAME
    assert checkpoint.recipe.method.floor == 0.05
    assert min(float(mask.float().mean()) for mask in checkpoint.masks.values()) >= 0.05


def test_files_alone_run_no_code(here: Path, granet: Granet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert granet(*shlex.split(f"{TRAIN} --out run")).code == 0
    forget(monkeypatch)
    (here / "my_methods.py").write_text("raise SystemExit('this ran')")
    last = "run/last.safetensors"
    assert "FlooredGMP" in granet("inspect", last).out
    assert "the budget was not checked: method my_methods:FlooredGMP is code" in granet("verify", last).out
    for line in ("history run", "train --resume run", "train --recipe run/recipe.toml", "plan run/recipe.toml"):
        answer = granet(*line.split())
        assert answer.code == 2
        assert f"Confirm it with --method {NAME}" in answer.err
    rewound = granet("rewind", last, "--mode", "lr", "--density", "0.05", "--dry-run")
    assert rewound.code == 0, rewound.err
    assert "my_methods" not in sys.modules


def test_a_confirmed_method_resumes_and_its_history_is_replayed(
    here: Path, granet: Granet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert granet(*shlex.split(f"{TRAIN} --out run")).code == 0
    forget(monkeypatch)
    lines = ("history run --verify", "train --resume run", "plan run/recipe.toml --steps 0")
    for line in (*lines, "verify run/last.safetensors"):
        answer = granet(*line.split(), "--method", NAME)
        assert answer.code == 0, answer.err
        assert "not checked" not in answer.out


def test_settings_of_an_unconfirmed_method_are_kept_as_they_are(here: Path) -> None:
    written = recipe()
    assert written.method.settings["interval"] == "20it"
    assert Recipe.from_toml(written.to_toml()) == written
    with pytest.raises(UsageError, match=f"Confirm it with --method {NAME}"):
        build_method(written, 100)
    confirm(NAME)
    assert recipe().method.interval == Duration.parse("20it")
    assert recipe().as_dict() == written.as_dict() | {"method": {**SETTINGS, "dense": []}}
    assert build_method(written, 100) == build_method(recipe(), 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "two\nlines", "x" * 501, [1], {"a": 1}, 10**400])
def test_settings_of_an_unconfirmed_method_are_plain(here: Path, value: object) -> None:
    with pytest.raises(RecipeError, match=r"method\.floor: "):
        recipe(floor=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": 2}, "method.floor: floor out of range; got 2; expected a number from 0 to 1"),
        ({"floor": "much"}, 'method.floor: wrong kind of value; got "much"; expected a number from 0 to 1'),
        ({"interval": 20}, "method.interval: not a duration"),
        ({"flor": 0.1}, "method.flor: unknown setting. Did you mean method.floor?"),
        ({"growth": "random"}, "method.growth: my_methods:FlooredGMP has no such setting"),
        ({"scope": "group"}, "method.scope: unknown scope 'group'"),
        ({"granularity": "channel"}, "method.granularity: unknown granularity 'channel'. There are: weight"),
    ],
)
def test_settings_of_a_confirmed_method_are_checked(here: Path, settings: dict[str, object], message: str) -> None:
    confirm(NAME)
    with pytest.raises(RecipeError) as caught:
        recipe(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_methods:FlorredGMP", "has no 'FlorredGMP'. Did you mean 'FlooredGMP'?"),
        ("my_method:FlooredGMP", "there is no module 'my_method'"),
        ("my_methods:math", "not a method; got module"),
        ("my_methods:Shapes.keys", "my_methods"),
        ("granet.errors:UsageError", "not a method; got UsageError"),
        ("my methods:A", "not a method; got 'my methods:A'; expected package.module:Class"),
    ],
)
def test_names_that_are_no_methods_are_refused(here: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        confirm(name)
    assert message in str(caught.value)


def test_recipes_are_compared_by_the_settings_of_an_unconfirmed_method(here: Path) -> None:
    assert recipe().differences(recipe(floor=0.1)) == [("method.floor", 0.05, 0.1)]


def test_an_unconfirmed_method_has_a_bounded_number_of_settings(here: Path) -> None:
    with pytest.raises(RecipeError, match="too many settings"):
        recipe(**{f"setting{number}": number for number in range(100)})


def test_a_name_of_another_form_is_refused_without_looking_for_it(here: Path) -> None:
    with pytest.raises(RecipeError, match=r"method\.name: not a method"):
        recipe(name="a b:c")


def test_every_method_is_found_by_its_file() -> None:
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")}
    assert {method.__module__.rpartition(".")[2] for method in METHODS.values()} <= files


def test_a_default_of_a_subclass_keeps_the_explanation_and_the_range() -> None:
    rigl, itop = (settings_of(METHODS[name])["interval"] for name in ("rigl", "rigl-itop"))
    assert (rigl.default, itop.default) == (100, 4000)
    assert rigl.description == itop.description
    assert rigl.limits == itop.limits
