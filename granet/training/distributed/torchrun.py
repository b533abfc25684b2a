"""What torchrun says of a process: which of how many it is, and where the others are to be met.

Read from environment variables alone; nothing of torch is imported, so that a command can ask before anything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from granet.data.ranks import ALONE, Ranks
from granet.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TorchrunRank:
    """Where a process stands among those that torchrun started.

    Attributes:
        ranks: its number, and how many there are on all machines together.
        local_rank: its number among those on this machine; also that of its GPU.
        local_size: how many there are on this machine.
        restarts: how often torchrun has started them anew.
        max_restarts: how often it would.
    """

    ranks: Ranks = ALONE
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    max_restarts: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> TorchrunRank:
        """That of a process in ``environment``; the only one where torchrun has set nothing.

        Raises:
            UsageError: variables that contradict each other, or are missing.
        """
        size = _number(environment, "WORLD_SIZE", 1)
        if size < 1:
            raise UsageError("not a number of processes", where="WORLD_SIZE", got=size, expected="1 or more")
        restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)
        max_restarts = _number(environment, "TORCHELASTIC_MAX_RESTARTS", 0)
        if size == 1:
            return cls(restarts=restarts, max_restarts=max_restarts)
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is {size}, but not all is said of the other processes",
                where="environment",
                got=f"no {', '.join(missing)}",
                remedy="start by torchrun, or unset WORLD_SIZE to train in one process",
            )
        local_rank = _number(environment, "LOCAL_RANK", 0)
        return cls(
            ranks=Ranks(_number(environment, "RANK", 0), size),
            local_rank=local_rank,
            local_size=_number(environment, "LOCAL_WORLD_SIZE", local_rank + 1),
            restarts=restarts,
            max_restarts=max_restarts,
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise UsageError("not a number", where=name, got=repr(text), remedy="start by torchrun, which sets it")
    return int(text)
