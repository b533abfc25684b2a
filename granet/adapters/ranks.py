"""Processes that train one network together have the same masks, or stop.

They have by construction: all that is random is keyed, and gradients are averaged before they are looked at. What can
go wrong is the loop around: data parallelism left out, or a rank that was resumed from another checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import distributed

from granet.errors import TrainingError
from granet.masks import mapping as masking
from granet.masks.layout import only_device
from granet.masks.mapping import Masks


def check_equal(masks: Masks, *, where: str) -> None:
    """Compares hashes of ``masks`` over all ranks of the default group; does nothing in a process by itself.

    Every rank must call it, in the same order as its other collectives.

    Args:
        masks: those of this rank.
        where: said in the error.

    Raises:
        TrainingError: some differ, on every rank; it names the first such layer and the ranks that differ from rank 0.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    hashes = "".join(masking.digest({name: mask}) for name, mask in masks.items())
    mine = torch.from_numpy(np.frombuffer(bytes.fromhex(hashes), np.uint8).copy()).to(only_device(masks))
    gathered = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, mine)
    table = torch.stack(gathered).cpu().view(len(gathered), len(masks), -1)
    different = (table != table[0]).any(2)
    for layer, name in enumerate(masks):
        if different[:, layer].any():
            ranks = different[:, layer].nonzero().flatten().tolist()
            raise TrainingError(
                "the ranks have different masks",
                where=f"{where}, {name}",
                got=f"others than rank 0 on rank {', '.join(map(str, ranks))}",
                remedy="wrap the model in DistributedDataParallel, give all ranks the same seed and method, and resume "
                "them from the same checkpoint",
            )
