"""Choose the encodings that take the fewest bytes, decoders included.

A decoder is stored once, however many tensors need it, so tensors cannot choose one by one: the first that needs a
decoder would pay for all. There are few decoders, and every set of them is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations


def smallest(options: Sequence[Mapping[str, int]], shared: Mapping[str, int]) -> list[str]:
    """Return for each tensor the name of its option, so that all of them and what they share take the fewest bytes.

    Args:
        options: for each tensor the bytes of each option; of equal ones the first is taken.
        shared: bytes of what all tensors with an option of that name share; none for names that are not in it.

    Returns:
        The chosen names, in the order of the tensors.
    """
    decoders = [name for name in shared if any(name in option for option in options)]
    totals: list[tuple[int, list[str]]] = []
    for allowed in chain.from_iterable(combinations(decoders, count) for count in range(len(decoders) + 1)):
        forbidden = shared.keys() - set(allowed)
        possible = [{name: size for name, size in option.items() if name not in forbidden} for option in options]
        if all(possible):
            chosen = [min(sizes, key=sizes.__getitem__) for sizes in possible]
            size = sum(min(sizes.values()) for sizes in possible) + sum(shared[name] for name in allowed)
            totals.append((size, chosen))
    return min(totals, key=lambda total: total[0])[1]
