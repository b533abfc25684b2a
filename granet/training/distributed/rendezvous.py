"""How ranks find each other after a restart.

torchrun keeps its key-value store when it restarts all ranks, so that addresses left there by an earlier attempt would
be taken for those of this one. So this attempt stores everything under a random prefix that rank 0 draws and sends to
the ranks that are alive: each asks for it under a random name of its own, which a rank that is gone cannot have used.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from granet.data.ranks import Ranks

_PAUSE = 0.02
"""Seconds between two looks at which ranks have come."""


def meet(ranks: Ranks, patience: timedelta) -> tuple[Store, int]:
    """Return a store for the ranks of this attempt only and, on rank 0, the number of attempts so far.

    torchrun's own count of restarts differs between machines: each counts those that its ranks caused.

    Raises:
        RuntimeError: the store cannot be reached, or not all ranks came within ``patience``.
    """
    whole, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size, timeout=patience)))
    store = PrefixStore("granet", whole)
    prefix = _send_prefix(store, ranks, patience) if ranks.rank == 0 else _receive_prefix(store, ranks, patience)
    return PrefixStore(prefix, store), store.add("attempts", 1) if ranks.rank == 0 else 0


def _send_prefix(store: Store, ranks: Ranks, patience: timedelta) -> str:
    """Draw the prefix and answer every request for it, also old ones, until all ranks have confirmed it."""
    prefix, end = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    answered: dict[int, str] = {}
    missing = set(range(1, ranks.size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"ready/{prefix}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"hello/{rank}"]):
                name = store.get(f"hello/{rank}").decode()
                if answered.get(rank) != name:
                    store.set(f"welcome/{name}", prefix)
                    answered[rank] = name
        if missing and time.monotonic() > end:
            raise RuntimeError(f"rank {min(missing)} did not come within {patience}")
        time.sleep(_PAUSE if missing else 0)
    return prefix


def _receive_prefix(store: Store, ranks: Ranks, patience: timedelta) -> str:
    """Ask rank 0 for the prefix and confirm it."""
    name = uuid.uuid4().hex
    store.set(f"hello/{ranks.rank}", name)
    store.wait([f"welcome/{name}"], patience)
    prefix = store.get(f"welcome/{name}").decode()
    store.set(f"ready/{prefix}/{ranks.rank}", "")
    return prefix
