"""Reads a history as docs/history.md describes it, a bit at a time and with nothing of granet's."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from math import prod

Layers = list[list[bool]]


class Bytes:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


def frames(data: bytes) -> Iterator[bytes]:
    assert data[:8] == b"\x93granet\n"
    source, check = Bytes(data), zlib.crc32(data[:8])
    source.at = 8
    while source.at < len(data):
        body = source.take(source.number())
        check = zlib.crc32(body, check)
        assert source.take(4) == check.to_bytes(4, "little")
        yield body


def masks(data: bytes, drawn: Layers) -> Iterator[tuple[int, Layers]]:
    """The step and the masks, flat, at the beginning and after every update."""
    bodies = frames(data)
    header = json.loads(next(bodies))
    changed = {1: changed_1, 2: changed_2}[header["version"][0]]
    step, present = header["step"], drawn
    if header["masks"] == "stored":
        inactive = [[False] * prod(shape) for shape in header["shapes"]]
        present = changed(Bytes(next(bodies)), inactive)
    assert checked(present) == header["check"]
    yield step, present
    for body in bodies:
        source = Bytes(body)
        step += source.number()
        present = changed(source, present)
        yield step, present


def checked(present: Layers) -> int:
    check = 0
    for mask in present:
        padded = [*mask, *[False] * (-len(mask) % 8)]
        bits = ["".join("01"[bit] for bit in padded[at : at + 8]) for at in range(0, len(padded), 8)]
        check = zlib.crc32(bytes(int(byte, 2) for byte in bits), check)
    return check


def changed_2(source: Bytes, present: Layers) -> Layers:
    check, rest = source.take(4), source.take(len(source.data) - source.at)
    after = [list(mask) for mask in present]
    for active in (True, False):
        among = [(layer, i) for layer, mask in enumerate(present) for i, bit in enumerate(mask) if bit is active]
        encoding, stream = rest[0], zlib.decompressobj(wbits=-15)
        data = stream.decompress(rest[1:])
        rest = stream.unused_data
        for index in (bits, bytes_, halves)[encoding](data):
            layer, i = among[index]
            after[layer][i] = not active
    assert rest == b""
    assert check == checked(after).to_bytes(4, "little")
    return after


def bits(data: bytes) -> list[int]:
    return [8 * number + bit for number, byte in enumerate(data) for bit in range(8) if byte >> bit & 1]


def bytes_(data: bytes) -> list[int]:
    return gaps(list(data), 255)


def halves(data: bytes) -> list[int]:
    return gaps([half for byte in data for half in (byte & 15, byte >> 4)], 15)


def gaps(codes: list[int], filler: int) -> list[int]:
    found, at = [], 0
    for code in codes:
        at += code
        if code < filler:
            found.append(at)
            at += 1
    return found


# Version 1


def changed_1(source: Bytes, present: Layers) -> Layers:
    sizes = []
    for mask in present:
        lost, folded = source.number(), source.number()
        gained = lost + (folded // 2 if folded % 2 == 0 else -(folded + 1) // 2)
        sizes += [(lost, sum(mask)), (gained, len(mask) - sum(mask))]
    found = subsets(source, sizes)
    after = []
    for index, mask in enumerate(present):
        lost_places, gained_places = found[2 * index], found[2 * index + 1]
        active = [place for place, bit in enumerate(mask) if bit]
        others = [place for place, bit in enumerate(mask) if not bit]
        new = list(mask)
        for place in lost_places:
            new[active[place]] = False
        for place in gained_places:
            new[others[place]] = True
        after.append(new)
    assert source.take(4) == checked(after).to_bytes(4, "little")
    assert source.at == len(source.data)
    return after


def subsets(source: Bytes, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    writes = [(min(k, n - k), n) for k, n in sizes]
    shifts = [max((n // (4 * w)).bit_length() - 1, 0) if w else 0 for w, n in writes]
    total = sum(w * s for (w, _), s in zip(writes, shifts, strict=True))
    bits = "".join(f"{byte:08b}" for byte in source.take(-(-total // 8)))
    tables = [starts(w, n, s) for (w, n), s in zip(writes, shifts, strict=True)]
    symbols = coded(source, [table for table, (w, _) in zip(tables, writes, strict=True) for _ in range(w)])
    units = [symbol + (source.number() if symbol == 63 else 0) for symbol in symbols]
    found = []
    for (k, n), (w, _), s in zip(sizes, writes, shifts, strict=True):
        place, places = -1, []
        for _ in range(w):
            low = sum(int(bit) << index for index, bit in enumerate(bits[:s]))
            place += (units.pop(0) << s) + low + 1
            bits = bits[s:]
            places.append(place)
        found.append([p for p in range(n) if p not in set(places)] if 2 * k > n else places)
    return found


def starts(w: int, n: int, s: int) -> list[int]:
    if not w:
        return []
    stay, past, table = min(((n - w) << 32) // n, 2**32 - 1), 2**32, []
    for _ in range(s):
        stay = stay * stay >> 32
    for symbol in range(64):
        table.append(symbol + ((2**32 - past) * 65472 >> 32))
        past = past * stay >> 32
    return [*table, 65536]


def coded(source: Bytes, tables: list[list[int]]) -> list[int]:
    if not tables:
        return []
    coders = min(max(len(tables) // 512, 1), 4096)
    states = [int.from_bytes(source.take(5), "little") for _ in range(coders)]
    symbols = []
    for row in range(0, len(tables), coders):
        for coder, table in enumerate(tables[row : row + coders]):
            slot = states[coder] % 65536
            symbol = next(symbol for symbol in range(64) if slot < table[symbol + 1])
            symbols.append(symbol)
            states[coder] = (table[symbol + 1] - table[symbol]) * (states[coder] >> 16) + slot - table[symbol]
        for coder in range(len(tables[row : row + coders])):
            if states[coder] < 2**24:
                states[coder] = states[coder] << 16 | int.from_bytes(source.take(2), "little")
    assert set(states) == {2**24}
    return symbols
