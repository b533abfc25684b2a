"""What each model is compared with: its dense twin, found, made or given.

The twin has the same graph with plain weights, so that nothing but the encoding differs. The rules, in this order:

1. the file that is given as control, for all models;
2. NAME.dense.onnx beside NAME.onnx;
3. a temporary file that ``inflate`` makes, if any of the model's weights are encoded;
4. the control of another model that has one; or the first model, if none has.

A single model without any of these is compared with itself, which shows how little can be told apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from granet.errors import UsageError


@dataclass(frozen=True)
class Subject:
    """A file that is measured.

    Attributes:
        label: how it is called in tables; unique.
        path: where it lies.
        control: label of what it is compared with; None when it is a control itself.
        origin: of a control, how it came to be one.
    """

    label: str
    path: Path
    control: str | None
    origin: str | None = None


def assign(models: Sequence[Path], given: Path | None, scratch: Path) -> list[Subject]:
    """Every model with its control, models first, each control once.

    Args:
        models: files, in the order of the report.
        given: the control of all.
        scratch: a folder for controls that have to be made, that lives as long as the measurement.

    Raises:
        FileError: a file that cannot be read.
        ModelError: a file that is no ONNX model.
        UsageError: no model was given.
    """
    if not models:
        raise UsageError("no model was given", remedy="name ONNX files, --torch CHECKPOINT or --suite RUN")
    labels = _labels(models)
    found: list[tuple[Path, str] | None] = [
        (given, "given") if given is not None else _twin(path, scratch, number) for number, path in enumerate(models)
    ]
    if not any(found):
        found = [(models[0], "itself" if len(models) == 1 else "the first model")] * len(models)
    common = next(pair for pair in found if pair)
    controls: dict[str, Subject] = {}
    subjects = []
    for label, path, own in zip(labels, models, found, strict=True):
        where, origin = own or common
        twin = controls.get(_key(where))
        if twin is None:
            free = _labels(
                [*map(Path, labels), *(Path(other.label) for other in controls.values()), _shown(own, where, path)]
            )
            twin = controls[_key(where)] = Subject(free[-1], where, None, origin)
        subjects.append(Subject(label, path, twin.label))
    # A model that is the control of another need not run twice, unless it is the only one there is.
    others = [subject for subject in subjects if _key(subject.path) not in controls]
    return [*(others or subjects), *controls.values()]


def _twin(path: Path, scratch: Path, number: int) -> tuple[Path, str] | None:
    stem = path.name.removesuffix(".onnx")
    beside = path.with_name(f"{stem}.dense.onnx")
    if beside.is_file():
        return beside, "found beside the model"
    from exporters import onnx_files
    from exporters.encoding import inflate

    model = onnx_files.read(path)
    plain = inflate(model)
    if plain == model:
        return None
    target = scratch / f"{number}.dense.onnx"
    onnx_files.write(target, plain)
    return target, "made from the model"


def _shown(own: tuple[Path, str] | None, where: Path, path: Path) -> Path:
    """What a control is called: its file, or for one that was made the file that it would be."""
    if own is not None and own[1] == "made from the model":
        return path.with_name(f"{path.name.removesuffix('.onnx')}.dense.onnx")
    return where


def _key(path: Path) -> str:
    """The same for two names of one file."""
    try:
        return str(path.resolve(strict=True))
    except OSError:
        return str(path)


def _labels(paths: Sequence[Path]) -> list[str]:
    """Paths as they were typed; one that comes again is numbered."""
    labels: list[str] = []
    for path in paths:
        label, number = str(path), 2
        while label in labels:
            label, number = f"{path} ({number})", number + 1
        labels.append(label)
    return labels


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
