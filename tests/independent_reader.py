"""A reader of checkpoints written from ``docs/format.md`` alone, with the standard library and NumPy."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

WIDTHS = {"64": 8, "32": 4, "16": 2, "E4M3": 1, "E5M2": 1, "8": 1, "BOOL": 1}


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header fields, and every tensor in its full shape as integers of its width, masks and explored sets too."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    texts, body = header.pop("__metadata__"), data[8 + length :]
    assert next(iter(header)) == "hashes"
    table = slice(*header.pop("hashes")["data_offsets"])
    prefix = data[:41] + b"0" * 64 + data[105 : 8 + length + table.stop]
    assert hashlib.sha256(prefix).hexdigest() == texts["content_hash"] == data[41:105].decode()

    stored = {}
    for row, (name, entry) in enumerate(header.items()):
        raw = body[slice(*entry["data_offsets"])]
        assert hashlib.sha256(raw).digest() == body[table][32 * row : 32 * row + 32]
        width = next(width for end, width in WIDTHS.items() if entry["dtype"].endswith(end))
        stored[name] = np.frombuffer(raw, f"<u{width}").reshape(entry["shape"])

    fields = json.loads(texts["granet"])
    result = {}
    for name in fields["weights"]:
        slots = {slot for slot, kind in fields["optimizer"].get(name, {}).items() if kind in ("masked", "whole")}
        masked = {f"optimizer/{slot}/{name}" for slot in slots if fields["optimizer"][name][slot] == "masked"}
        result |= {f"optimizer/{slot}/{name}": stored[f"optimizer/{slot}/{name}"] for slot in slots}
        result[f"weights/{name}"] = stored[f"weights/{name}"]
        if name in fields["masks"]:
            shape = fields["masks"][name]["shape"]
            active = indices(fields["masks"][name], stored.get(f"masks/{name}"), size=int(np.prod(shape)))
            explored = active
            if name in fields["explored"]:
                explored = indices(fields["explored"][name], stored.get(f"explored/{name}"), size=int(np.prod(shape)))
            for key, found in (("masks", active), ("explored", explored)):
                result[f"{key}/{name}"] = spread(np.ones(len(found), np.uint8), found, shape)
            for key in (f"weights/{name}", *masked):
                result[key] = spread(stored[key].reshape(-1), active, shape)
    result |= {key: stored[key] for key in stored if key.startswith(("buffers/", "accumulators/", "extra/"))}
    return fields, result


def indices(part: dict[str, Any], data: np.ndarray | None, size: int) -> list[int]:
    """The indices in a set of ``part["count"]``."""
    if data is None:
        assert part["encoding"] == "dense"
        return list(range(size))
    found, cursor = [], 0
    if part["encoding"] == "bitmask":
        found = [i for i in range(size) if data[i // 8] >> (i % 8) & 1]
    else:
        filler = 255 if part["encoding"] == "gaps8" else 15
        codes = data.tolist()
        if filler == 15:
            codes = [half for byte in codes for half in (byte % 16, byte // 16)]
        for code in codes:
            cursor += code
            if code < filler:
                found.append(cursor)
                cursor += 1
    assert len(found) == part["count"]
    return found


def spread(values: np.ndarray, active: list[int], shape: list[int]) -> np.ndarray:
    """``values`` at the active indices, zeros elsewhere."""
    result = np.zeros(int(np.prod(shape)), values.dtype)
    result[active] = values
    return result.reshape(shape)
