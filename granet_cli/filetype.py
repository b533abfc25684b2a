"""What kind of file a path names, told by what is in it, without the libraries that read it."""

from __future__ import annotations

from pathlib import Path

# Of a model's fields in protocol buffers, numbered 1 to 26, those that hold a number and those that hold bytes.
_NUMBERS, _BYTES = {1, 5}, {2, 3, 4, 6, 7, 8, 14, 20, 25, 26}
_GRAPH = 7
_HEAD = 2**16
_FIELDS = 32


def is_onnx(path: Path) -> bool:
    """Whether the file at ``path`` is to be read as an ONNX model, and not as a checkpoint.

    Where the first bytes tell neither, the suffix decides, so that its reader can say what is wrong. A file that
    cannot be read is told by its suffix too.
    """
    named = path.suffix.lower() == ".onnx"
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would have to be waited for
            return named
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return named
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return False
    return named or _begins_like_a_model(head, size)


def _begins_like_a_model(head: bytes, size: int) -> bool:
    """Whether these are fields of a model up to its graph, which exporters write behind a few short ones."""
    at = 0
    for _ in range(_FIELDS):
        tag, at = _varint(head, at)
        field, kind = tag >> 3, tag & 7
        if (field not in _NUMBERS or kind != 0) and (field not in _BYTES or kind != 2):
            return False
        value, at = _varint(head, at)
        if kind == 2:
            at += value
            if at > size:
                return False
            if field == _GRAPH:
                return True
        if at >= len(head):
            return False
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most ten bytes and where it ends; one that does not end is no field's."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    return 0, len(data)
