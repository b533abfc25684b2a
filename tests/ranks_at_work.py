"""Several ranks in processes of their own, for tests: each runs a function of the test, and hands back what it returns.

The processes are forked from a server that has imported torch once, so that a world starts in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
import torch._dynamo  # which an optimizer would import, in every process anew

from granet import training  # noqa: F401  likewise
from granet.training.distributed import TorchrunRank, World, joined

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Failed:
    """What a rank raised."""

    kind: str
    message: str
    everywhere: bool
    trace: str


def at_work(size: int, work: Callable[..., Any], *given: Any, seconds: float = 120) -> list[Any]:
    """What ``work(world, *given)`` returns, or ``Failed``, on each of ``size`` ranks; None for one that was killed."""
    context = _context()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes, ends = [], []
    for rank in range(size):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, size, port, work, given, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(mine)
    results = []
    for process, end in zip(processes, ends, strict=True):
        try:
            results.append(end.recv() if end.poll(seconds) else "nothing was heard of this rank in time")
        except EOFError:
            results.append(None)
        process.join(10)
        process.kill()
    return results


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    forkserver._forkserver._stop()  # the loader's workers may have started one that knows less
    context.set_forkserver_preload(["tests.ranks_at_work"])
    return context


def done(results: list[Any]) -> list[Any]:
    """``results`` when no rank failed."""
    for rank, result in enumerate(results):
        assert not isinstance(result, Failed | None), f"rank {rank}: {result}"
        assert not isinstance(result, str) or "nothing was heard" not in result, f"rank {rank}"
    return results


def _rank(rank: int, size: int, port: int, work: Callable[..., Any], given: Any, end: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with joined(TorchrunRank.of(), CPU) as world:
            end.send(work(world, *given))
    except BaseException as error:
        everywhere = getattr(error, "everywhere", False)
        end.send(Failed(type(error).__name__, str(error), everywhere, traceback.format_exc()))
        os._exit(1)


def ranks(world: World) -> tuple[int, int]:
    """What a rank is."""
    return world.ranks.rank, world.ranks.size
