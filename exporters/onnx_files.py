"""Read ONNX files without trusting them, and write them whole or not at all.

A model is one file as long as protocol buffers can hold it. Above that its larger tensors lie in a second file in the
same folder, named after its content, so that replacing a model never touches the data of the one before.
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
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from exporters import graphs
from granet.errors import FileError, ModelError
from granet.files import mapped
from granet.files.atomic import file_errors, sync_folder

INLINE = 1_900_000_000
"""Bytes of tensors up to which a model is a single file. Protocol buffers end at 2 GiB, and the graph needs room."""

_EXTERNAL = 1024
"""Bytes below which a tensor stays in the model's own file even then; shapes and axes have to."""

_SHARED = 4
"""How many times over the tensors of a model may use a file of data."""

_NOT_WRITTEN = "the file could not be written; what was there before is as it was"


def read(path: str | os.PathLike[str], *, external: bool = True) -> onnx.ModelProto:
    """Return the model in an untrusted file, with the data of all its tensors, or without those in other files.

    Memory is bounded by a multiple of the files' sizes. Data outside the model's folder are not touched. Callers have
    to check that the bytes of a tensor fit its shape.

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
    # Many other files can be parsed as a message of unknown fields.
    if model is None or not model.ir_version or not model.graph.output:
        raise ModelError("not an ONNX model", where=path, remedy="name a file that an ONNX exporter wrote")
    if external:
        _load_external(model, path)
    return model


def size(path: Path) -> int:
    """Return the bytes of the model's file and of its file of data, where it has one."""
    return sum(file.stat().st_size for file in [path, *_companions(path)])


def write(path: str | os.PathLike[str], model: onnx.ModelProto) -> None:
    """Write ``model`` to the file at ``path``, atomically and durably.

    Raises:
        FileError: the file cannot be written; the old one is as it was.
    """
    path = Path(path)
    with staging(path) as folder:
        folder.write(model, path.name)
        folder.publish([path.name])


class StagingFolder:
    """A hidden folder on the disk of the target, where files are written and tested before they are published."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self._target = path, target

    def write(self, model: onnx.ModelProto, name: str, *, inline: int = INLINE) -> Path:
        """Write ``model`` to the file ``name`` in this folder, and a file of data if it is large; return its path.

        The name is also that of the published file; up to ``inline`` bytes of tensors the model is one file.

        Raises:
            FileError: it cannot be written.
        """
        path = self.path / name
        with file_errors(self._target, _NOT_WRITTEN):
            for stale in _companions(path):
                stale.unlink()
            raw = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            _write(path, (model if raw <= inline else _externalise(model, path)).SerializeToString())
        return path

    def publish(self, names: Sequence[str]) -> None:
        """Move the files of these models to the target's folder, durably, the first one last.

        Each model appears with a single rename, after its data. The files of data of a model that it replaces are
        removed.

        Raises:
            FileError: they cannot be moved.
        """
        folder = self._target.parent
        with file_errors(self._target, _NOT_WRITTEN):
            for name in reversed(names):
                fresh = [path.name for path in _companions(self.path / name)]
                for companion in fresh:
                    (self.path / companion).replace(folder / companion)
                (self.path / name).replace(folder / name)
                for old in _companions(folder / name):
                    if old.name not in fresh:
                        old.unlink()
            sync_folder(folder)


@contextmanager
def staging(target: Path) -> Iterator[StagingFolder]:
    """Make the empty folder ``.NAME.tmp`` beside ``target``, and remove it afterwards.

    One that a crash left behind is removed first.

    Raises:
        FileError: it cannot be made, or ``target`` is a folder.
    """
    folder = target.with_name(f".{target.name}.tmp")
    if target.is_dir():
        raise FileError("a file cannot be written here", where=target, got="a folder", remedy="name a file in it")
    with file_errors(target, _NOT_WRITTEN):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    try:
        yield StagingFolder(folder, target)
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
    """Return the files of data that belong to the model at ``path``, by their names."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))


def _externalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Write the data of the larger initializers to a file beside ``path``; return the model that refers to it."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _EXTERNAL:
            digest.update(tensor.raw_data)
    location = f"{path.name}.{digest.hexdigest()}.data"
    shell = graphs.copy_without(model, "initializer")
    with path.with_name(location).open("wb") as file:
        for tensor in model.graph.initializer:
            copy = shell.graph.initializer.add()
            if len(tensor.raw_data) < _EXTERNAL:
                copy.CopyFrom(tensor)
                continue
            file.write(bytes(-file.tell() % 4096))  # at pages, so that it can be mapped into memory
            graphs.copy_fields(tensor, copy, leave=["raw_data"])
            copy.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", file.tell()), ("length", len(tensor.raw_data))):
                copy.external_data.add(key=key, value=str(value))
            file.write(tensor.raw_data)
        _sync(file)
    return shell


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    budgets: dict[Path, int] = {}
    for tensor in graphs.tensors(model):
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
        # Tied weights share bytes, but only a few times; else a small file could claim any amount of memory.
        budgets[file] = budgets.get(file, _SHARED * data.size) - max(length, 0)
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
