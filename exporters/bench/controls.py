"""The control of each model: its dense twin, given, found or made.

The twin has the same graph with plain weights, so that nothing but the encoding differs. The control is the first of:

1. the file that is given as control, for all models;
2. NAME.dense.onnx beside NAME.onnx;
3. a temporary file that ``inflate`` makes, if any of the model's weights are encoded;
4. the control of another model that has one; or the first model, if none has.

A single model without any of these is compared with itself, which shows how small a difference can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from exporters import onnx_files
from exporters.bench import inputs
from exporters.bench.protocol import Input, Refusal
from exporters.bench.report import Model
from exporters.bench.settings import BenchSettings
from exporters.bench.torch_engine import TorchCheckpoint
from exporters.encoding import inflate
from granet.errors import UsageError


def assign(paths: Sequence[Path], given: Path | None, scratch: Path) -> list[Model]:
    """Return every model with its control: models first, each control once.

    ``given`` is the control of all; controls that have to be made are written to the folder ``scratch``.

    Raises:
        FileError: a file that cannot be read.
        ModelError: a file that is no ONNX model.
        UsageError: no model was given.
    """
    if not paths:
        raise UsageError("no model was given", remedy="name ONNX files, --torch CHECKPOINT or --suite RUN")
    twins = [
        _Twin(given, "given", given) if given is not None else _find(path, scratch / f"{number}.dense.onnx")
        for number, path in enumerate(paths)
    ]
    if not any(twins):
        twins = [_Twin(paths[0], "itself" if len(paths) == 1 else "the first model", paths[0])] * len(paths)
    common = next(twin for twin in twins if twin)
    labels: list[str] = []
    models = [Model(label=_label(path, labels), path=path, control=None) for path in paths]
    controls: dict[Path, Model] = {}
    for model, own in zip(models, twins, strict=True):
        twin = own or common
        key = twin.path.resolve()
        if key not in controls:
            label = _label(twin.name, labels)
            controls[key] = Model(label=label, path=twin.path, control=None, origin=twin.origin)
        model.control = controls[key].label
    # A model that is the control of another need not run twice, unless it is the only one there is.
    others = [model for model in models if model.path.resolve() not in controls]
    return [*(others or models), *controls.values()]


def declared_inputs(model: onnx.ModelProto) -> tuple[Input, ...]:
    """Return the inputs of a graph, but for those that have a value in the file."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value) for value in model.graph.input if value.name not in stored)


def _input(value: onnx.ValueInfoProto) -> Input:
    tensor, types = value.type.tensor_type, onnx.TensorProto.DataType
    name = types.Name(tensor.elem_type).lower() if tensor.elem_type in types.values() else str(tensor.elem_type)
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim)
    return Input(value.name, f"tensor({name})", tuple(sizes))


def check_inputs(models: Sequence[Model], settings: BenchSettings, checkpoint: TorchCheckpoint | None) -> None:
    """Check that all models take the same images at every batch size.

    Raises:
        UsageError: they do not, so that they cannot be compared.
    """
    first: tuple[str, list[tuple[int, ...]]] | None = None
    if checkpoint is not None:
        first = str(checkpoint.path), [checkpoint.image]
    for model in models:
        for batch in settings.batches:
            try:
                sizes = [
                    inputs.resolve(node, batch=batch, shape=settings.shape, path=model.label) for node in model.inputs
                ]
            except Refusal as refusal:
                raise UsageError(refusal.what, **refusal.details) from refusal
        images = [size[1:] for size in sizes]
        if first is None:
            first = model.label, images
        elif images != first[1]:
            raise UsageError(
                f"{first[0]} and {model.label} take different inputs, so their times cannot be compared",
                got=_shapes(images),
                expected=_shapes(first[1]),
            )


class _Twin(NamedTuple):
    """A file that serves as control, how it came to be one, and the path that it is called by."""

    path: Path
    origin: str
    name: Path


def _find(model: Path, target: Path) -> _Twin | None:
    """Return the model's own twin, made at ``target`` if need be; None when its weights are plain and none is there."""
    beside = model.with_name(f"{model.name.removesuffix('.onnx')}.dense.onnx")
    if beside.is_file():
        return _Twin(beside, "found beside the model", beside)
    encoded = onnx_files.read(model)
    plain = inflate(encoded)
    if plain == encoded:
        return None
    onnx_files.write(target, plain)
    return _Twin(target, "made from the model", beside)


def _label(path: Path, labels: list[str]) -> str:
    """Return the path as it was typed, numbered when it is in ``labels`` already, and add it to them."""
    label, number = str(path), 2
    while label in labels:
        label, number = f"{path} ({number})", number + 1
    labels.append(label)
    return label


def _shapes(images: Sequence[Sequence[int]]) -> str:
    return " and ".join("x".join(map(str, size)) or "a number" for size in images)
