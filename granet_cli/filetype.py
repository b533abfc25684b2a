"""File type detection by content, without the libraries that read the files."""

from __future__ import annotations

from pathlib import Path

# Of a model's fields in protocol buffers, numbered 1 to 26, those that hold a number and those that hold bytes.
_NUMBERS, _BYTES = {1, 5}, {2, 3, 4, 6, 7, 8, 14, 20, 25, 26}
_GRAPH = 7
_HEAD = 2**16
_FIELDS = 32


def is_onnx(path: Path) -> bool:
    """Return whether the file at ``path`` should be read as an ONNX model rather than as a checkpoint.

    Where the first bytes show neither, or the file cannot be read, the suffix decides, so that the reader for that
    suffix reports what is wrong.
    """
    named = path.suffix.lower() == ".onnx"
    try:
        size = path.stat().st_size
        if not path.is_file():  # reading a pipe would block
            return named
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return named
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return False
    return named or _begins_like_a_model(head, size)


def _begins_like_a_model(head: bytes, size: int) -> bool:
    """Return whether these are fields of a model up to its graph, which exporters write after a few short ones."""
    position = 0
    for _ in range(_FIELDS):
        tag, position = _varint(head, position)
        field, wire_type = tag >> 3, tag & 7
        if (field not in _NUMBERS or wire_type != 0) and (field not in _BYTES or wire_type != 2):
            return False
        value, position = _varint(head, position)
        if wire_type == 2:
            position += value
            if position > size:
                return False
            if field == _GRAPH:
                return True
        if position >= len(head):
            return False
    return False


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return a varint of at most ten bytes and the position after it; one that does not end ends the data."""
    value = 0
    for index, byte in enumerate(data[start : start + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, start + index + 1
    return 0, len(data)
