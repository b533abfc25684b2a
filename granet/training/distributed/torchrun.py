"""The rank that torchrun gave this process, from its environment variables.

Nothing of torch is imported, so that a command can ask before anything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from granet.data.ranks import Ranks
from granet.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TorchrunRank(Ranks):
    """The rank of a process among those that torchrun started.

    Attributes:
        local_rank: its number among the ranks on this machine; also that of its GPU.
        local_size: how many ranks there are on this machine.
        restarts: how often torchrun has restarted the ranks.
        max_restarts: how often it would.
    """

    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    max_restarts: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> TorchrunRank:
        """Return the rank that ``environment`` names; rank 0 of 1 where torchrun has set nothing.

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
            rank=_number(environment, "RANK", 0),
            size=size,
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
