"""Plain tar archives, read by their headers alone: the files in one, and the offsets of their bytes.

Archives are not trusted. Nothing is unpacked, so no name is used as a path; sizes are checked against the size of the
file; memory stays small whatever a header says; and what cannot be an image or its label (links, devices, sparse files)
is refused rather than skipped. Time is linear in the number of headers.

The old format, ustar, GNU's long names, and pax headers that do not change where data begin or end are read. Python's
``tarfile`` takes four times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from granet.errors import DataError

BLOCK = 512

MAX_NAME = 4096
"""Bytes of a member's name."""

MAX_EXTENDED = 1 << 20
"""Bytes of a pax header or a long name."""

MAX_PADDING = 1 << 20
"""Bytes behind the end of an archive, which programs pad with zeros to a round size."""

_WINDOW = 4096
"""Bytes that are read at once; they hold a header, a short label and the next header together."""

_ZEROS = bytes(BLOCK)
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_TYPES = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_RESIZING = (b"size", b"GNU.sparse.", b"hdrcharset", b"linkpath")
"""Pax records that change where data begin or end, or how names are decoded."""


class Member(NamedTuple):
    """A file in an archive: its name, without a leading "./", and offset and number of its bytes."""

    name: str
    offset: int
    size: int


class FileWindow:
    """Reads parts of a file, with read-ahead."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor, self._start, self._data = descriptor, 0, b""

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset`` on, or fewer where the file ends before."""
        begin = offset - self._start
        if begin < 0 or begin + count > len(self._data):
            self._start, begin = offset, 0
            self._data = os.pread(self._descriptor, max(count, _WINDOW), offset)
        return self._data[begin : begin + count]


def members(window: FileWindow, where: object) -> Iterator[Member]:
    """Yield the files in an archive, in order; folders are skipped.

    Args:
        window: on the archive.
        where: its name, for messages.

    Raises:
        DataError: it is not a plain tar archive, is truncated or damaged, or holds anything but files and folders.
    """
    position, long_name = 0, None
    while True:
        block = window.read(position, BLOCK)
        if len(block) < BLOCK:
            raise _truncated(where, f"its {window.size} bytes end without the mark that ends an archive")
        if block == _ZEROS:
            _check_end(window, position, where, open_name=long_name is not None)
            return
        size = _header_size(block, position, where)
        data = position + BLOCK
        if data + size > window.size:
            raise _truncated(where, f"{window.size} bytes, of which a member has those up to {data + size}")
        position = data + -(-size // BLOCK) * BLOCK
        type_flag = block[156:157]
        if type_flag in (b"x", b"g", b"L"):
            found = _extended(type_flag, window.read(data, _checked(size, where)), where)
            long_name = found if found is not None else long_name
            continue
        name = _relative(_name(block) if long_name is None else long_name, where)
        long_name = None
        if type_flag == _FOLDER or (type_flag == b"\0" and name.endswith("/")):
            continue
        if type_flag not in _FILES:
            raise DataError(
                "not a file",
                where=f"{where}, member {name!r}",
                got=_TYPES.get(type_flag, f"a member of type {type_flag.decode('latin-1')!r}"),
                expected="files alone",
                remedy="pack the files themselves, for instance with tar --dereference --hard-dereference",
            )
        yield Member(name, data, size)


def _header_size(block: bytes, position: int, where: object) -> int:
    """Return the size that a header gives, after checking its checksum."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    if _octal(block[148:156]) != total:
        if position:
            raise DataError(
                "the shard is damaged: no header where one must be", where=where, got=f"byte {position}", remedy=_REMEDY
            )
        name = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
        raise DataError(
            f"a shard compressed with {name}, in which no image can be reached by itself"
            if name
            else "not a tar archive",
            where=where,
            expected="a plain tar archive",
            remedy="decompress it; images are compressed already" if name else _REMEDY,
        )
    size = _octal(block[124:136])
    if size is None:
        raise DataError(
            "a member whose size is not written in octal, as sizes below 8 GiB are",
            where=f"{where}, byte {position}",
            remedy=_REMEDY,
        )
    return size


_REMEDY = "get or make the shard again"


def _octal(field: bytes) -> int | None:
    """Return the number in a field; None when it is not an octal number."""
    text = field.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(text, 8) if text.isdigit() else None
    except ValueError:
        return None


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _checked(size: int, where: object) -> int:
    if size > MAX_EXTENDED:
        raise DataError(
            "an extended header that is too long", where=where, got=f"{size} bytes", expected=f"at most {MAX_EXTENDED}"
        )
    return size


def _extended(type_flag: bytes, data: bytes, where: object) -> bytes | None:
    """Return the name that an extended header gives the next member, if it does."""
    if type_flag == b"L":
        return data.split(b"\0", 1)[0]
    name, start = None, 0
    while start < len(data):
        length, space, _ = data[start : start + 20].partition(b" ")
        end = start + int(length) if space and length.isdigit() else start
        record = data[start + len(length) + 1 : end]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n") or len(data) < end:
            raise DataError("the shard is damaged: a pax header that is not one", where=where, remedy=_REMEDY)
        if key.startswith(_RESIZING) or (type_flag == b"g" and key == b"path"):
            raise DataError(
                "a pax header that changes what the headers after it mean",
                where=where,
                got=key[:40].decode("latin-1"),
                remedy="pack the shard again as plain files, for instance with tar --format=ustar",
            )
        if key == b"path":
            name = value[:-1]
        start = end
    return name


def _relative(name: bytes, where: object) -> str:
    """Return a name without "./" in front; one that would lead out of a folder is refused."""
    text = name[: MAX_NAME + 1].decode("utf-8", "surrogateescape")
    while text.startswith("./"):
        text = text[2:]
    if len(name) > MAX_NAME or text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise DataError(
            "a member with a name that no file in a folder has",
            where=where,
            got=repr(text[:200]),
            expected="a relative path without ..",
            remedy="pack the shard again",
        )
    return text


def _check_end(window: FileWindow, position: int, where: object, *, open_name: bool) -> None:
    """Check that nothing but zeros follows, or a second archive would be ignored."""
    if open_name:
        raise DataError("the shard is damaged: a name without its member", where=where, remedy=_REMEDY)
    left = window.size - position
    if left > MAX_PADDING or window.read(position, left).strip(b"\0"):
        raise DataError(
            "something follows the end of the archive",
            where=where,
            got=f"{left} bytes",
            expected=f"zeros, at most {MAX_PADDING} bytes",
            remedy="join archives with tar --concatenate, or keep them as shards of their own",
        )


def _truncated(where: object, got: str) -> DataError:
    return DataError("the shard is truncated", where=where, got=got, remedy=_REMEDY)
