"""Read files of ``torch.save`` without running code in them and without trusting the sizes they claim.

Only torch's restricted unpickler, ``torch.load(weights_only=True)``, sees their contents: it makes tensors and plain
containers and calls nothing else. Whatever it refuses is refused here; there is no other way in. A few classes that
programs pickle next to weights are replaced by an empty one of ours, so that nothing of theirs is imported or kept.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from granet.errors import CheckpointError
from granet.importing.conventions import OTHER_ARCHIVES, STAND_INS

ARCHIVE, LEGACY = b"PK\x03\x04", b"\x80"
"""The first bytes of a file of ``torch.save``: a zip archive, or before torch 1.6 a sequence of pickles."""

MAX_PICKLE = 64 * 2**20
"""The most bytes that describe the tensors of an archive; a network with optimizer takes less than one of them."""

MAX_SPARSE = 256, 2**16
"""How many values a sparse tensor may stand for: so many for each byte it takes, and so many besides."""

_REMEDY = "where you trust it, open it in Python and save its state dict alone: torch.save(model.state_dict(), FILE)"


class StandIn:
    """An empty object in place of one whose class is in ``STAND_INS``, whatever that was made of."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Return one without what it is given."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Take anything, and keep nothing."""

    def __setstate__(self, state: object) -> None:
        """Take any state, and keep nothing."""


def read(path: str | os.PathLike[str], *, archive: bool) -> object:
    """Return what was given to ``torch.save``; the tensors of an archive are views of the memory-mapped file.

    ``archive`` says that the file begins as ``ARCHIVE``, else it does as ``LEGACY``.

    Raises:
        CheckpointError: a damaged file, or one that holds more than tensors, numbers, texts and plain containers.
    """
    if archive:
        _check_archive(path)
    try:
        stand_ins: list[Any] = [(StandIn, name) for name in STAND_INS]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # of pickle protocols and old types, which are not our user's concern
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # a broken pickle can provoke anything
        raise CheckpointError(
            "torch cannot read the file as weights alone, and granet reads no other pickles",
            where=os.fspath(path),
            got=_reason(error),
            remedy=_REMEDY,
        ) from error


def plain(tensor: Tensor, where: str) -> Tensor:
    """Return a tensor detached and with every value, after checking that its file has all the bytes it claims.

    A tensor of one number and strides of zero can claim any shape, and so can a sparse one. Copied, it would take as
    much memory.

    Raises:
        CheckpointError: it claims more, is damaged, or is of another kind than dense or sparse.
    """
    tensor = tensor.detach()
    parts = _parts(tensor)
    if not parts or any(part.is_quantized or part.device.type != "cpu" for part in parts):
        raise CheckpointError(
            "not a plain tensor",
            where=where,
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected="values, dense or sparse",
        )
    if any(part.numel() * part.itemsize > part.untyped_storage().nbytes() for part in parts):
        raise CheckpointError(
            "a tensor claims more values than the file has", where=where, got=tuple(tensor.shape), remedy=_REMEDY
        )
    return tensor if tensor.layout == torch.strided else _dense(tensor, parts, where)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the dense tensors that a tensor consists of; none if its kind is not known."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def _dense(tensor: Tensor, parts: tuple[Tensor, ...], where: str) -> Tensor:
    """Return a sparse tensor as a dense one.

    Raises:
        CheckpointError: its positions are not within its shape, or its shape is out of proportion.
    """
    each, besides = MAX_SPARSE
    most = besides + each * sum(part.numel() * part.itemsize for part in parts)
    if tensor.numel() > most:
        raise CheckpointError(
            "a sparse tensor stands for too many values", where=where, got=tensor.numel(), expected=f"at most {most}"
        )
    kind: dict[str, Any] = {} if tensor.layout == torch.sparse_coo else {"layout": tensor.layout}
    build: Any = torch.sparse_compressed_tensor if kind else torch.sparse_coo_tensor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls some layouts beta
            return build(*parts, tensor.shape, **kind, check_invariants=True).to_dense()  # type: ignore[no-any-return]
    except RuntimeError as error:
        raise CheckpointError("a damaged sparse tensor", where=where, got=str(error).partition("\n")[0]) from error


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Check that nothing in the archive is compressed, as by ``torch.save``: then its size bounds the memory."""
    where = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError("the archive is damaged", where=where, got=error, remedy="use another copy") from error
    for pattern, (what, remedy) in OTHER_ARCHIVES.items():
        if any(fnmatchcase(entry.filename, pattern) for entry in entries):
            raise CheckpointError(
                f"{what}, not tensors by name of torch.save",
                where=where,
                remedy=f"{remedy} with torch.save",
            )
    size = os.stat(path).st_size  # noqa: PTH116  a path of any kind
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError("torch.save does not compress, but this is", where=f"{where}, {entry.filename!r}")
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
            raise CheckpointError(
                "the description of the tensors is too long",
                where=where,
                got=f"{entry.file_size} bytes",
                expected=f"at most {MAX_PICKLE}",
                remedy=_REMEDY,
            )
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError("the parts of the archive are larger than the whole", where=where)


def _reason(error: Exception) -> str:
    """Return torch's reason, without its advice to load the file anyway."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    code = text.partition("Unsupported global: GLOBAL ")[2].partition(" was not an allowed global")[0]
    return f"code to run, {code}"[:200] if code else text.strip().partition("\n")[0][:200] or type(error).__name__
