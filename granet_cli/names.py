"""Names for the shell to complete, at hand without importing torch. A test holds them equal to the registries."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

METHODS = ("granet", "granet-uniform", "rigl", "rigl-itop", "set", "snfs", "gmp", "gmp-uniform", "static", "dense")
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
    """The recipes that come with granet, from the names of their files."""
    spec = find_spec("granet")  # finds the package without running it
    folders = (spec.submodule_search_locations if spec else None) or []
    return sorted(path.stem for folder in folders for path in Path(folder, "recipes").glob("*.toml"))


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes by name, and files that may be one."""
    return _starting(incomplete, [*recipes(), *_paths(incomplete, "*.toml")])


def complete_method(incomplete: str) -> list[str]:
    """Methods."""
    return _starting(incomplete, METHODS)


def complete_model(incomplete: str) -> list[str]:
    """Networks of the catalog, and how the name of another one begins."""
    return _starting(incomplete, (*MODELS, "torchvision:", "timm:"))


def complete_data(incomplete: str) -> list[str]:
    """Datasets, and folders."""
    return _starting(incomplete, [*DATASETS, *_paths(incomplete, "*/")])


def complete_device(incomplete: str) -> list[str]:
    """Devices."""
    return _starting(incomplete, ("auto", "cpu", "cuda"))


def complete_precision(incomplete: str) -> list[str]:
    """Number formats."""
    return _starting(incomplete, PRECISIONS)


def complete_split(incomplete: str) -> list[str]:
    """Splits of a dataset."""
    return _starting(incomplete, SPLITS)


def complete_encoding(incomplete: str) -> list[str]:
    """Encodings of exported weights."""
    return _starting(incomplete, ENCODINGS)


def complete_value_precision(incomplete: str) -> list[str]:
    """Number formats of exported weights."""
    return _starting(incomplete, VALUE_PRECISIONS)


def complete_compute(incomplete: str) -> list[str]:
    """Number formats that an exported model may compute in."""
    return _starting(incomplete, COMPUTES)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, pattern: str) -> list[str]:
    """What matches ``pattern`` in the folder typed so far, and its folders, written as the user began to."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    place = Path(folder or ".").expanduser()
    found = {*place.glob(pattern), *place.glob("*/")} if place.is_dir() else set()
    return sorted(f"{folder}{path.name}{'/' if path.is_dir() else ''}" for path in found)
