"""How ranks make sure that they train the same run, above all that they have the same masks.

Masks are computed on every rank from the same weights, gradients and keyed draws, and are not sent. What must be equal
is compared by ``World.check_equal``, and a difference stops all ranks:

=====================  =======================================  ==================================
when                   what                                     how
=====================  =======================================  ==================================
every step             masks                                    ``MaskChecksum``, with the loss
every update           masks                                    ``fingerprints.of_masks``
end of an epoch        weights                                  ``fingerprints.of_weights``
begin and resume       all of these, recipe, data, software     ``granet.training.distributed.fingerprints``
=====================  =======================================  ==================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from granet.errors import GranetError, listing
from granet.masks.packed import PackedMasks
from granet.randomness import generator

Facts = Mapping[str, str]
"""What must be the same on every rank: a value or a hash by the name that an error calls it."""

_WORD = torch.int32
_CHECKSUM_BITS = 52
"""A float64 holds them exactly."""

_FROM_CHECKPOINT = "the last checkpoint is intact; resume from it, and if this happens again, look for a faulty machine"
_REMEDIES = {
    "recipe": "start every rank by the same command, with the same recipe file",
    "software": "install the same versions on every machine",
    "data": "give every machine the same data",
    "masks": _FROM_CHECKPOINT,
    "weights": _FROM_CHECKPOINT,
}


class MaskChecksum:
    """Checksum of masks, computed on their device without reading it: cheap enough for every step.

    Sums the words of the packed masks, each multiplied by a random odd number of its own, modulo 2**64. Words have half
    as many bits as the factors, so that the highest bit of a word still meets 33 random ones: masks that differ have
    the same sum once in 2**32 times at worst. The factors need twice the memory of the masks.
    """

    def __init__(self) -> None:
        self._factors: Tensor | None = None

    def of(self, masks: PackedMasks) -> Tensor:
        """Return the checksum, int64 [], from 0 to 2**52 - 1, on the device of ``masks``."""
        bits = torch.nn.functional.pad(masks.bits, (0, -len(masks.bits) % _WORD.itemsize))
        words = bits.view(_WORD)
        if self._factors is None or len(self._factors) != len(words):
            drawn = torch.randint(-(2**62), 2**62, (len(words),), generator=generator(0, "checksum"))
            self._factors = (drawn * 2 + 1).to(bits.device)
        total = (words * self._factors).sum()
        return torch.bitwise_and(torch.bitwise_right_shift(total, 64 - _CHECKSUM_BITS), 2**_CHECKSUM_BITS - 1)


def digest(facts: Facts) -> bytes:
    """Return a hash of 16 bytes, equal for equal facts in the same order only."""
    state = hashlib.blake2b(digest_size=16)
    for name, value in facts.items():
        for text in (name, value):
            encoded = text.encode(errors="surrogateescape")
            state.update(len(encoded).to_bytes(8, "little"))
            state.update(encoded)
    return state.digest()


def mismatch_error(what: str, by_rank: Sequence[Facts], error: type[GranetError]) -> GranetError:
    """Return the error for ranks that differ in ``what``: it names the first fact that differs, and the ranks."""
    names = dict.fromkeys(name for facts in by_rank for name in facts)
    different = [name for name in names if len({facts.get(name) for facts in by_rank}) > 1]
    if not different:
        return error(f"the ranks have their {what} in different orders", got=_orders(by_rank))
    name = different[0]
    ranks: dict[str, list[int]] = {}
    for rank, facts in enumerate(by_rank):
        ranks.setdefault(facts.get(name, "nothing"), []).append(rank)
    usual = max(ranks, key=lambda value: len(ranks[value]))
    others = "; ".join(f"{value} on {_ranks(numbers)}" for value, numbers in ranks.items() if value != usual)
    return error(
        f"the ranks differ in their {what}",
        where=listing(different),
        got=others,
        expected=f"{usual}, as on {_ranks(ranks[usual])}",
        remedy=_REMEDIES.get(what),
    )


def _ranks(numbers: Sequence[int]) -> str:
    """Return "rank 1" or "ranks 0, 2 and 3"; long lists are cut short."""
    shown = [str(number) for number in numbers[:8]]
    if len(numbers) > 8:
        return f"ranks {', '.join(shown)} and {len(numbers) - 8} more"
    return f"ranks {', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else f"rank {shown[0]}"


def _orders(by_rank: Sequence[Facts]) -> str:
    first = list(by_rank[0])
    other = next(rank for rank, facts in enumerate(by_rank) if list(facts) != first)
    mine, theirs = next(pair for pair in zip(first, by_rank[other], strict=True) if pair[0] != pair[1])
    return f"{mine} on rank 0 where rank {other} has {theirs}"
