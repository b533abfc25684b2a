"""The shape of the code: light imports, arrows that point one way, a library that never prints."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import granet

ROOT = Path(granet.__file__).parents[1]
TOP = ("granet", "exporters", "granet_cli")

FORBIDDEN = (
    *("typer", "rich", "onnx", "onnxruntime", "onnxscript", "torchvision", "exporters", "granet_cli"),
    *("lightning", "transformers", "accelerate", "timm"),
)


def _modules() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name; a package is named as its folder."""
    found = {}
    for top in TOP:
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = _modules()


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported: inside functions too, and for type checkers alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_modules(name: str) -> set[str]:
    """The modules of ours that the module ``name`` imports."""
    dotted = set(_imports(MODULES[name]))
    return {module for full in dotted for module in (full, full.rpartition(".")[0]) if module in MODULES} - {
        full.rpartition(".")[0] for full in dotted if full in MODULES
    }


GRAPH = {name: _imported_modules(name) for name in MODULES}


def _ladder() -> list[str]:
    """The packages of ``granet/`` from the bottom to the top, as the map in CONTRIBUTING.md lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `granet/(\w+)(?:\.py|/)` \|", text, flags=re.MULTILINE)


def _rung(name: str) -> str:
    return name.split(".")[1]


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_the_map_in_contributing_lists_every_package_once() -> None:
    there = {path.stem for path in (ROOT / "granet").glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / "granet").glob("*/__init__.py")}
    assert sorted(_ladder()) == sorted(there)


@pytest.mark.parametrize("rung", _ladder())
def test_packages_import_only_those_above_them_on_the_map(rung: str) -> None:
    ladder = _ladder()
    below = set(ladder[: ladder.index(rung) + 1])
    for name in (name for name in GRAPH if name.startswith("granet.") and _rung(name) == rung):
        wrong = {module for module in GRAPH[name] if module.startswith("granet.") and _rung(module) not in below}
        assert not wrong, f"{name} imports {sorted(wrong)}, which the map in CONTRIBUTING.md puts higher"


@pytest.mark.parametrize(
    ("package", "above"),
    [("granet", {"exporters", "granet_cli", "typer", "rich", "onnx", "onnxruntime"}), ("exporters", {"granet_cli"})],
)
def test_the_library_knows_neither_exporters_nor_command_line(package: str, above: set[str]) -> None:
    for name in (name for name in MODULES if name.split(".")[0] == package):
        # Opening a session with the kernels is what that module is for; it imports the engine when it is called.
        allowed = {"onnxruntime"} if name == "granet.kernels.inference" else set()
        assert not {full.split(".")[0] for full in _imports(MODULES[name])} & (above - allowed), name


def test_exporters_do_not_know_training() -> None:
    for name in (name for name in GRAPH if name.startswith("exporters")):
        assert not any(module.startswith("granet.training") for module in GRAPH[name]), name


def test_the_root_of_the_library_has_at_most_six_modules() -> None:
    assert len({path.name for path in (ROOT / "granet").glob("*.py")} - {"__init__.py"}) <= 6


def test_the_library_never_prints() -> None:
    for name in (name for name in MODULES if name.split(".")[0] == "granet"):
        calls = (node.func for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call))
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), name


# Names that two public classes may share, and why.
SHARED_CLASS_NAMES = {
    "SparsifierCallback",  # one for Lightning and one for transformers: nobody has both in one file
}


def test_no_two_public_classes_have_the_same_name() -> None:
    counts = Counter(
        node.name
        for tree in MODULES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in counts.items() if count > 1} <= SHARED_CLASS_NAMES


@pytest.mark.parametrize(
    "statement",
    [
        "import granet.allocation; granet.allocation.erk_densities, granet.allocation.erk, granet.allocation.uniform",
        "import granet.schedules; granet.schedules.cubic_density, granet.schedules.cosine",
        "import granet.topology; granet.topology.prune_to, granet.topology.swap",
        "import granet.methods; granet.methods.GraNet, granet.methods.GraNetUniform, granet.methods.GMPUniform",
        "import granet.flops; granet.flops.inference, granet.flops.layers, granet.flops.training_step",
        "import granet.masks, granet.layers as x; granet.masks.density, x.unwrap, x.maskable.__code__",
        "import granet; granet.Sparsifier, granet.load_checkpoint, granet.load_weights, granet.allocation.er",
    ],
)
def test_public_names_are_importable_from_where_users_import_them(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True)


def test_importing_granet_is_light() -> None:
    script = f"import sys, granet; print(*sorted({set(FORBIDDEN)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_everything_public_is_there() -> None:
    assert all(hasattr(granet, name) for name in granet.__all__)
    assert list(granet.__all__) == sorted(granet.__all__)
