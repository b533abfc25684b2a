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
    chargeable = [name for name in shared if any(name in option for option in options)]
    best: tuple[int, list[str]] | None = None
    for allowed in _subsets(chargeable):
        chosen, total = [], sum(shared[name] for name in allowed)
        for option in options:
            possible = {name: size for name, size in option.items() if name not in shared or name in allowed}
            if not possible:
                break
            chosen.append(min(possible, key=possible.__getitem__))
            total += possible[chosen[-1]]
        else:
            if best is None or total < best[0]:
                best = total, chosen
    assert best is not None  # noqa: S101  with everything allowed each tensor has an option
    return best[1]


def _subsets(names: Sequence[str]) -> chain[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))
