"""What ranks differ in, in words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from granet.errors import GranetError, listing
from granet.training.distributed.world import Facts

_ABSENT = "nothing"


def digest(facts: Facts) -> bytes:
    """16 bytes that are the same for equal facts in the same order, and for nothing else."""
    state = hashlib.blake2b(digest_size=16)
    for name, value in facts.items():
        for text in (name, value):
            encoded = text.encode(errors="surrogateescape")
            state.update(len(encoded).to_bytes(8, "little"))
            state.update(encoded)
    return state.digest()


def difference(what: str, by_rank: Sequence[Facts], kind: type[GranetError]) -> GranetError:
    """The error for ranks whose ``facts``, by rank, are not the same: about the first that differs."""
    names = dict.fromkeys(name for facts in by_rank for name in facts)
    different = [name for name in names if len({facts.get(name) for facts in by_rank}) > 1]
    if not different:
        return kind(f"the ranks have their {what} in different orders", got=_orders(by_rank))
    name = different[0]
    values = [facts.get(name, _ABSENT) for facts in by_rank]
    usual, _ = Counter(values).most_common(1)[0]
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    told = "; ".join(f"{value} on {_ranks(ranks[value])}" for value in ranks if value != usual)
    return kind(
        f"the ranks differ in their {what}",
        where=listing(different),
        got=told,
        expected=f"{usual}, as on {_ranks(ranks[usual])}",
        remedy=_REMEDIES.get(what),
    )


_REMEDIES = {
    "recipe": "start every rank by the same command, with the same recipe file",
    "software": "install the same versions on every machine",
    "data": "give every machine the same data",
    "masks": "the last checkpoint is intact; go on from it, and if this happens again, look for a faulty machine",
    "weights": "the last checkpoint is intact; go on from it, and if this happens again, look for a faulty machine",
}


def _ranks(numbers: Sequence[int]) -> str:
    """As "rank 1" or "ranks 0, 2 and 3"; long lists are cut short."""
    shown = [str(number) for number in numbers[:8]]
    if len(numbers) > 8:
        return f"ranks {', '.join(shown)} and {len(numbers) - 8} more"
    if len(shown) == 1:
        return f"rank {shown[0]}"
    return f"ranks {', '.join(shown[:-1])} and {shown[-1]}"


def _orders(by_rank: Sequence[Facts]) -> str:
    first = list(by_rank[0])
    other = next(rank for rank, facts in enumerate(by_rank) if list(facts) != first)
    place = next(place for place, names in enumerate(zip(first, by_rank[other], strict=True)) if names[0] != names[1])
    return f"{first[place]} on rank 0 where rank {other} has {list(by_rank[other])[place]}"
