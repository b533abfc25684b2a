"""Training on several processes, started by torchrun.

``torchrun``: the rank of this process; ``world``: the communication interface, and its single-process implementation;
``process_group``: that for several processes, from ``rendezvous``, ``ddp`` and ``batch_norm``; ``agreement`` and
``fingerprints``: how ranks make sure that they have the same masks, weights, recipe and data.

Nothing of ``torch.distributed`` is used before ``joined`` finds that there is more than one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from granet.errors import DeviceError, Interrupted, LostRankError, UsageError
from granet.training.device import resolve_device
from granet.training.distributed.torchrun import TorchrunRank
from granet.training.distributed.world import World

__all__ = ["TorchrunRank", "World", "device_for", "joined"]


def device_for(name: str, rank: TorchrunRank) -> torch.device:
    """Return the device named ``name`` for this rank; ``cuda`` gives each rank of a machine a GPU of its own.

    Raises:
        UsageError: all ranks of a machine were given the same GPU.
        DeviceError: there is no such device, or there are more ranks than GPUs.
    """
    device = resolve_device(name)
    if rank.size == 1 or device.type != "cuda":
        return device
    if device.index is not None and rank.local_size > 1:
        raise UsageError(
            "several ranks cannot share a GPU",
            where="device",
            got=f"{name} for {rank.local_size} ranks",
            remedy="use --device cuda, which gives each rank its own",
        )
    count = torch.cuda.device_count()
    index = rank.local_rank if device.index is None else device.index
    if index >= count:
        raise DeviceError(
            "more ranks than GPUs",
            where="device",
            got=f"{rank.local_size} ranks on this machine",
            expected=f"at most {count}",
            remedy=f"start by torchrun --nproc-per-node {count}, or train on the CPU with --device cpu",
        )
    return torch.device("cuda", index)


@contextmanager
def joined(rank: TorchrunRank, device: torch.device) -> Iterator[World]:
    """Context in which this process communicates with the other ranks.

    Raises:
        TrainingError: the other ranks do not come.
        UsageError: they cannot work together.
    """
    if rank.size == 1:
        world = World()
        world.restarted = rank.restarts > 0
        yield world
        return
    from granet.training.distributed.process_group import ProcessGroup

    group = ProcessGroup(rank, device)
    try:
        yield group
    except Interrupted as stopped:
        if stopped.__cause__ is not None:  # what ended this rank ended no other, which is not going to be there
            group.abandon()
            raise
        try:
            group.leave()  # not before rank 0 has saved: torchrun ends what is left once one of them is gone
        except LostRankError:
            group.abandon()
        raise
    except BaseException:
        group.abandon()
        raise
    group.leave()
