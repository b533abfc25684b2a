"""A checkpoint that rank 0 has, on every rank: over the wire in the bytes of its file, read with the same suspicion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from granet.checkpoint import Checkpoint, codec
from granet.masks.codec import Bytes
from granet.training.distributed.world import World


def shared(world: World, make: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What ``make`` returns on rank 0, where alone it is called. A single rank is given it as it is.

    Raises:
        GranetError: what ``make`` raises, on every rank.
    """
    if world.ranks.size == 1:
        return make()
    found: Checkpoint | None = None

    def encoded() -> memoryview | None:
        nonlocal found
        found = make()
        return None if found is None else codec.encode(found)

    data = world.from_first(encoded)
    if world.first or data is None:
        return found
    content: Bytes = np.frombuffer(data, np.uint8)
    return codec.decode(content, "the checkpoint of rank 0")
