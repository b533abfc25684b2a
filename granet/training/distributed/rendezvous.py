"""How ranks find each other, and no rank of an earlier attempt.

torchrun keeps its key-value store when it starts all ranks anew, so that addresses which an earlier attempt left there
would be taken for those of this one. So whatever this attempt stores is put under a name that rank 0 makes up, and
tells those who are there now: each says hello by a name of its own, which a rank that is gone cannot have used.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from granet.data.ranks import Ranks

_PAUSE = 0.02
"""Seconds between two looks at who has come."""


def meet(ranks: Ranks, patience: timedelta) -> tuple[Store, int]:
    """A store that the ranks of this attempt share, and nobody else; and, on rank 0, how many attempts it knows of.

    torchrun counts restarts too, but each machine only those that its own ranks were the cause of.

    Raises:
        RuntimeError: the store cannot be reached, or not all ranks came within ``patience``.
    """
    whole, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size, timeout=patience)))
    store = PrefixStore("granet", whole)
    token = _gathered(store, ranks, patience) if ranks.rank == 0 else _told(store, ranks, patience)
    return PrefixStore(token, store), store.add("attempts", 1) if ranks.rank == 0 else 0


def _gathered(store: Store, ranks: Ranks, patience: timedelta) -> str:
    """What rank 0 does: answers everybody who says hello, also those of the past, until all have heard the answer."""
    token, end = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    answered: dict[int, str] = {}
    missing = set(range(1, ranks.size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"ready/{token}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"hello/{rank}"]):
                name = store.get(f"hello/{rank}").decode()
                if answered.get(rank) != name:
                    store.set(f"welcome/{name}", token)
                    answered[rank] = name
        if missing and time.monotonic() > end:
            raise RuntimeError(f"rank {min(missing)} did not come within {patience}")
        time.sleep(_PAUSE if missing else 0)
    return token


def _told(store: Store, ranks: Ranks, patience: timedelta) -> str:
    """What the others do."""
    name = uuid.uuid4().hex
    store.set(f"hello/{ranks.rank}", name)
    store.wait([f"welcome/{name}"], patience)
    token = store.get(f"welcome/{name}").decode()
    store.set(f"ready/{token}/{ranks.rank}", "")
    return token
