"""Read files of ``torch.save`` without running code in them and without trusting the sizes they claim.

Only torch's restricted unpickler, ``torch.load(weights_only=True)``, sees their contents: it makes tensors and plain
containers and calls nothing else. Whatever it refuses is refused here; there is no other way in.
"""

from __future__ import annotations

import os
import warnings
import zipfile

import torch
from torch import Tensor

from granet.errors import CheckpointError

ARCHIVE, LEGACY = b"PK\x03\x04", b"\x80"
"""The first bytes of a file of ``torch.save``: a zip archive, or before torch 1.6 a sequence of pickles."""

MAX_PICKLE = 64 * 2**20
"""The most bytes that describe the tensors of an archive; a network with optimizer takes less than one of them."""

_REMEDY = "where you trust it, open it in Python and save its state dict alone: torch.save(model.state_dict(), FILE)"


def read(path: str | os.PathLike[str], *, archive: bool) -> object:
    """Return what was given to ``torch.save``; the tensors of an archive are views of the memory-mapped file.

    ``archive`` says that the file begins as ``ARCHIVE``, else it does as ``LEGACY``.

    Raises:
        CheckpointError: a damaged file, or one that holds more than tensors, numbers, texts and plain containers.
    """
    if archive:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and old types, which are not our user's concern
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # a broken pickle can provoke anything
        raise CheckpointError(
            "torch cannot read the file as weights alone, and granet reads no other pickles",
            where=os.fspath(path),
            got=_reason(error),
            remedy=_REMEDY,
        ) from error


def check_tensor(tensor: Tensor, where: str) -> None:
    """Check that a tensor is a plain one, and that its file has all the bytes it claims.

    A tensor of one number and strides of zero can claim any shape. Copied, it would take as much memory.

    Raises:
        CheckpointError: it is not.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(
            "not a plain tensor",
            where=where,
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected="dense values",
        )
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            "a tensor claims more values than the file has", where=where, got=tuple(tensor.shape), remedy=_REMEDY
        )


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Check that nothing in the archive is compressed, as by ``torch.save``: then its size bounds the memory."""
    where = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError("the archive is damaged", where=where, got=error, remedy="use another copy") from error
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
