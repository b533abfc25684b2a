"""The shape of the code: light imports, arrows that point one way, a library that never prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import granet

ROOT = Path(granet.__file__).parent

# The first rung knows nobody, and each of the others only those named beside it. Packages are one rung each.
CORE = {"errors", "randomness", "selection", "masks", "allocation", "schedules", "topology", "method", "methods"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "randomness": set(),
    "vectorised": set(),
    "storage": {"errors", "vectorised"},
    "packed": {"vectorised", "storage"},
    "unheld": {"vectorised", "storage"},
    "selection": {"errors", "vectorised", "storage", "packed", "unheld"},
    "masks": {"errors", "randomness", "packed", "selection"},
    "allocation": {"errors"},
    "schedules": {"errors"},
    "topology": {"errors", "masks", "packed", "selection"},
    "method_settings": {"errors", "allocation"},
    "method": {
        *("errors", "randomness", "masks", "allocation", "schedules", "unheld", "selection", "topology"),
        "method_settings",
    },
    "methods": {"errors", "masks", "allocation", "packed", "selection", "topology", "method_settings", "method"},
    "layers": {"errors"},
    "optimizer_state": {"errors"},
    "gradient_sums": {"storage"},
    "zeroing": {"packed", "vectorised"},
    "step_rules": set(),
    "masked_step": {"errors", "optimizer_state", "packed", "step_rules", "zeroing"},
    "sparsifier": {
        *("errors", "masks", "packed", "topology", "method", "layers"),
        *("storage", "optimizer_state", "gradient_sums", "zeroing", "masked_step"),
    },
    "adapters": {
        *("errors", "masks", "storage", "packed", "topology", "method", "layers", "optimizer_state", "sparsifier"),
        *("models", "checkpoint"),
    },
    "durations": {"errors"},
    "flops": {"errors", "layers", "masks"},
    "sparse_codec": {"errors"},
    "models": {"errors", "randomness"},
    "ranks": {"errors"},
    "data": {"errors", "randomness", "ranks"},
    "recipe": {*CORE, "durations"},
    "checkpoint": {"errors", "masks", "recipe", "sparse_codec"},
    "lineage": {"masks", "recipe", "checkpoint"},
    "history": {"errors", "sparse_codec", "checkpoint"},
    "importing": {"errors", "masks", "layers", "models", "data", "recipe", "sparse_codec", "checkpoint"},
    "analysis": {*CORE, "checkpoint", "history", "lineage", "sparse_codec", "flops", "layers", "models", "recipe"},
    "training": {
        *CORE,
        *("layers", "optimizer_state", "packed", "sparsifier", "durations", "flops", "models", "data"),
        *("ranks", "sparse_codec", "recipe", "checkpoint", "analysis", "history", "lineage", "importing"),
    },
}

# The public doors may open onto anything below them.
DOORS = {"__init__"}

FORBIDDEN = (
    *("typer", "rich", "onnx", "onnxruntime", "onnxscript", "torchvision", "exporters", "granet_cli"),
    *("lightning", "transformers", "accelerate", "timm"),
)


@cache
def modules(package: Path) -> list[tuple[str, ast.Module]]:
    """The rung and the syntax tree of every file below ``package``."""
    paths = sorted(package.rglob("*.py"))
    return [(path.relative_to(package).parts[0].removesuffix(".py"), ast.parse(path.read_text())) for path in paths]


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported, inside functions too, but not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports(node)


def rungs_imported(tree: ast.AST) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("granet.")}


def test_the_ladder_has_no_cycle() -> None:
    settled: set[str] = set()
    while left := ARROWS.keys() - settled:
        ready = {rung for rung in left if ARROWS[rung] <= settled}
        assert ready, f"a cycle among {sorted(left)}"
        settled |= ready


def test_every_module_is_on_the_ladder() -> None:
    missing = {rung for rung, _ in modules(ROOT)} - ARROWS.keys() - DOORS
    assert not missing, f"say in ARROWS what these may import: {sorted(missing)}"


@pytest.mark.parametrize("rung", ARROWS)
def test_arrows_point_one_way(rung: str) -> None:
    for name, tree in modules(ROOT):
        if name == rung:
            assert rungs_imported(tree) - {rung} <= ARROWS[rung]


@pytest.mark.parametrize("package", ["granet", "exporters", "granet_cli"])
def test_packages_know_only_those_below(package: str) -> None:
    above = {"granet": {"exporters", "granet_cli"}, "exporters": {"granet_cli"}, "granet_cli": set()}[package]
    for rung, tree in modules(ROOT.parent / package):
        names = list(imports(tree))
        assert not {name.split(".")[0] for name in names} & above, rung
        if package == "exporters":
            assert not any(name.startswith("granet.training") for name in names), rung
        if package == "granet":
            assert not {name.split(".")[0] for name in names} & {"typer", "rich", "onnx", "onnxruntime"}, rung


def test_the_library_never_prints() -> None:
    for rung, tree in modules(ROOT):
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), rung


def test_importing_granet_is_light() -> None:
    script = f"import sys, granet; print(*sorted({set(FORBIDDEN)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_everything_public_is_there() -> None:
    assert all(hasattr(granet, name) for name in granet.__all__)
    assert list(granet.__all__) == sorted(granet.__all__)
