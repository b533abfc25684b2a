"""What the documents show is true: commands run, examples work, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from granet.recipe import Recipe
from granet_cli.app import app, run

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Told after what is shown, and the last one counts.
SHORT = {"train": ["--epochs", "1"], "bench": ["--time-limit", "0.5", "--processes", "3"]}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    lines = [
        line.removeprefix("$ ") for block in blocks(path, "console") for line in block.splitlines() if line[:2] == "$ "
    ]
    lines += [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("granet ")]


def test_the_session_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        line[2:] for block in blocks(ROOT / "README.md", "console") for line in block.splitlines() if line[:2] == "$ "
    ]
    session = [shlex.split(line)[1:] for line in lines if line.startswith("granet ")]
    assert len(session) >= 6
    for arguments in session:
        short = SHORT.get(arguments[0], []) if "--resume" not in arguments else []
        assert run([*arguments, *short]) == 0, (arguments, capsys.readouterr())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(document: Path) -> None:
    group = typer.main.get_command(app)
    for _, name, *arguments in commands(document):
        with group.commands[name].make_context(name, arguments) as context:  # type: ignore[attr-defined]
            if recipe := context.params.get("recipe"):
                Recipe.load(recipe)


def test_the_example_of_the_readme_works(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102  our own file
    printed = capsys.readouterr().out.strip()
    assert printed == "0.1000 of the weights are active"
    method_to_step = example[example.index("method = ") : example.index("print(")]
    assert len(method_to_step.strip().splitlines()) < 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"
