"""ONNX files on disk: read without trusting them, and written whole or not at all.

A model is one file as long as protocol buffers can hold it; above that its larger tensors lie in a second file beside
it, named after its content, so that replacing a model never touches the data of the one before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from granet.errors import FileError, ModelError
from granet.files import mapped
from granet.files.atomic import file_errors, sync_folder

INLINE = 1_900_000_000
"""Bytes of tensors up to which a model is a single file. Protocol buffers end at 2 GiB, and the graph needs room."""

_EXTERNAL = 1024
"""Bytes below which a tensor stays in the model's own file even then; shapes and axes have to."""

_NOT_WRITTEN = "the file could not be written; what was there before is as it was"


def read(path: str | os.PathLike[str], *, external: bool = True) -> onnx.ModelProto:
    """The model in the file at ``path``, from anybody, with the data of all its tensors.

    Memory is bounded by a multiple of the files' sizes. Data outside the model's folder are not touched. That the
    bytes of a tensor fit its shape is for those to check who use it.

    Args:
        path: the file.
        external: False leaves data that lie in other files where they are.

    Raises:
        FileError: not there, or not a regular file.
        ModelError: not an ONNX model, or tensors that are not where it says.
    """
    path = Path(path)
    content = mapped.read(path)
    if content.size > 2**31 - 1:
        raise ModelError("larger than an ONNX file can be", where=path, got=f"{content.size} bytes", expected="2 GiB")
    model: onnx.ModelProto | None = None
    with suppress(DecodeError):
        model = onnx.ModelProto.FromString(content.tobytes())
    # Many a file that is none can be read as a message of which every field is unknown.
    if model is None or not model.ir_version or not model.graph.output:
        raise ModelError("not an ONNX model", where=path, remedy="name a file that an ONNX exporter wrote")
    if external:
        _load_external(model, path)
    return model


def size(path: Path) -> int:
    """Bytes of the model's file and, where it has one, of the file beside it."""
    return sum(file.stat().st_size for file in [path, *_companions(path)])


def write(path: str | os.PathLike[str], model: onnx.ModelProto) -> None:
    """Writes ``model`` to the file at ``path``, atomically and durably.

    Raises:
        FileError: the file cannot be written; what was there is as it was.
    """
    path = Path(path)
    with workshop(path) as shop:
        shop.write(model, path.name)
        shop.publish([path.name])


class Workshop:
    """A hidden folder on the disk of the files to come, where they are made and tried before anybody sees them."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target

    def write(self, model: onnx.ModelProto, name: str, *, inline: int = INLINE) -> Path:
        """Writes ``model`` as the file ``name`` in here, and perhaps a file of data beside it; returns its path.

        Args:
            model: is not changed.
            name: what it is called, here and where it is published.
            inline: bytes of tensors that may be in the file itself.

        Raises:
            FileError: it cannot be written.
        """
        path = self.folder / name
        with file_errors(self._target, _NOT_WRITTEN):
            for stale in _companions(path):
                stale.unlink()
            raw = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            _write(path, (model if raw <= inline else _externalise(model, path)).SerializeToString())
        return path

    def publish(self, names: Sequence[str]) -> None:
        """Moves the files of these models to where they belong, durably, the first one last.

        Each model appears with a single rename, its data before that. Files of data that a replaced model had, and
        that bear its name, are removed.

        Raises:
            FileError: they cannot be moved.
        """
        place = self._target.parent
        with file_errors(self._target, _NOT_WRITTEN):
            for name in reversed(names):
                fresh = [path.name for path in _companions(self.folder / name)]
                for companion in fresh:
                    (self.folder / companion).replace(place / companion)
                (self.folder / name).replace(place / name)
                for old in _companions(place / name):
                    if old.name not in fresh:
                        old.unlink()
            sync_folder(place)


@contextmanager
def workshop(target: Path) -> Iterator[Workshop]:
    """The folder ``.NAME.tmp`` beside ``target``, empty; it is gone afterwards, whatever happens.

    One that a crash left behind is removed first.

    Raises:
        FileError: it cannot be made, or there is a folder where the file should be.
    """
    folder = target.with_name(f".{target.name}.tmp")
    if target.is_dir():
        raise FileError("a file cannot be written here", where=target, got="a folder", remedy="name a file in it")
    with file_errors(target, _NOT_WRITTEN):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    try:
        yield Workshop(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _companions(path: Path) -> list[Path]:
    """The files of data that belong to the model at ``path``, by their names."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))


def _externalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Writes the data of the larger initializers beside ``path``; returns the model that refers to them there."""
    digest = hashlib.blake2b(digest_size=8)
    slots: list[tuple[int, int] | None] = []
    unnamed = path.with_name(f"{path.name}.data")
    with unnamed.open("wb") as file:
        for tensor in model.graph.initializer:
            data = tensor.raw_data
            if len(data) < _EXTERNAL:
                slots.append(None)
                continue
            file.write(bytes(-file.tell() % 4096))  # at pages, so that it can be mapped into memory
            slots.append((file.tell(), len(data)))
            file.write(data)
            digest.update(data)
        _sync(file)
    location = f"{path.name}.{digest.hexdigest()}.data"
    unnamed.replace(path.with_name(location))

    shell = onnx.ModelProto()
    _copy(model, shell, leave="graph")
    _copy(model.graph, shell.graph, leave="initializer")
    for tensor, slot in zip(model.graph.initializer, slots, strict=True):
        copy = shell.graph.initializer.add()
        if slot is None:
            copy.CopyFrom(tensor)
            continue
        _copy(tensor, copy, leave="raw_data")
        copy.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", slot[0]), ("length", slot[1])):
            copy.external_data.add(key=key, value=str(value))
    return shell


def _copy(source: Message, target: Message, *, leave: str) -> None:
    """Copies every field but one, which may be too large to have twice."""
    for field, value in source.ListFields():
        if field.name == leave:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    budgets: dict[Path, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{path}: data of {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = (folder / entries.get("location", "")).resolve()
        if not entries.get("location") or folder not in file.parents:
            raise ModelError("data outside the model's folder", where=where, got=repr(entries.get("location")))
        data = mapped.read(file)
        offset, length = _number(entries, "offset", 0, where), _number(entries, "length", data.size, where)
        length = min(length, data.size - offset) if "length" not in entries else length
        # Each byte of a file is somebody's once; else a small file could claim any amount of memory.
        budgets[file] = budgets.get(file, data.size) - max(length, 0)
        if length < 0 or offset + length > data.size or budgets[file] < 0:
            raise ModelError(
                "data that are not in the file", where=where, got=f"{length} bytes at {offset}", expected=data.size
            )
        tensor.raw_data = data[offset : offset + length].tobytes()
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"not a number of bytes: {key}", where=where, got=repr(text[:40]))
    return int(text)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that may have its data elsewhere: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices
            yield from attribute.tensors
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graph_tensors(graph)
