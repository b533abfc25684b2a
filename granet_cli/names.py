"""Names that the shell completes, written down so that torch need not be imported; a test compares the registries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

MODELS = (
    "lenet-300-100",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg19",
)
DATASETS = ("fashion-mnist-subset", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder", "tar-shards")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SPLITS = ("train", "validation", "test")
ENCODINGS = ("auto", "gaps8", "gaps4", "bitmask", "coo", "dense")
VALUE_PRECISIONS = ("fp32", "fp16", "int8")
COMPUTES = ("fp32", "fp16")


def recipes() -> list[str]:
    """Return the recipes that come with granet, from the names of their files."""
    return sorted(path.stem for path in _files("recipes/*.toml"))


def methods() -> list[str]:
    """Return the methods that come with granet, from the lines of their files that register them."""
    return sorted(
        name for path in _files("methods/*.py") for name in _REGISTRATION.findall(path.read_text(encoding="utf-8"))
    )


_REGISTRATION = re.compile(r'^@register\("([^"]+)"\)$', flags=re.MULTILINE)


def _files(pattern: str) -> list[Path]:
    spec = find_spec("granet")  # finds the package without running it
    folders = (spec.submodule_search_locations if spec else None) or []
    return [path for folder in folders for path in Path(folder).glob(pattern)]


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, pattern: str) -> list[str]:
    """Return what matches ``pattern`` in the folder typed so far, and its folders, written as the user began to."""
    typed = incomplete[: incomplete.rfind("/") + 1]
    folder = Path(typed or ".").expanduser()
    found = {*folder.glob(pattern), *folder.glob("*/")} if folder.is_dir() else set()
    return sorted(f"{typed}{path.name}{'/' if path.is_dir() else ''}" for path in found)


def completion(names: Iterable[str], files: str | None = None) -> Callable[[str], list[str]]:
    """Return what completes a word: the ``names`` that begin with it, and paths that match the pattern ``files``."""
    return lambda incomplete: _starting(incomplete, [*names, *(_paths(incomplete, files) if files else ())])


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the name of a recipe, or of a file that may be one; the folder of recipes is read only when asked."""
    return completion(recipes(), "*.toml")(incomplete)


def complete_method(incomplete: str) -> list[str]:
    """Complete the name of a method; the files of methods are read only when asked."""
    return completion(methods())(incomplete)


complete_model = completion((*MODELS, "torchvision:", "timm:"))
complete_data = completion(DATASETS, "*/")
complete_device = completion(("auto", "cpu", "cuda"))
complete_precision = completion(PRECISIONS)
complete_split = completion(SPLITS)
complete_encoding = completion(ENCODINGS)
complete_value_precision = completion(VALUE_PRECISIONS)
complete_compute = completion(COMPUTES)
