"""The check that all ranks of a host have the same masks.

They do by construction: all that is random is keyed, and gradients are averaged before they are ranked. They differ
when the host does not average them, or when ranks resume from different checkpoints.
"""

from __future__ import annotations

from torch import distributed

from granet.errors import TrainingError
from granet.masks import mapping as masking
from granet.masks.mapping import Masks


def check_equal(masks: Masks, *, where: str) -> None:
    """Compare hashes of ``masks`` over all ranks of the default process group; do nothing in a single process.

    Every rank must call it, in the same order as its other collectives.

    Raises:
        TrainingError: some differ, on every rank; it names the first such layer and the ranks that differ from rank 0.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    by_rank: list[dict[str, str]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(by_rank, {name: masking.digest({name: mask}) for name, mask in masks.items()})
    for name in masks:
        different = [rank for rank, hashes in enumerate(by_rank) if hashes.get(name) != by_rank[0].get(name)]
        if different:
            raise TrainingError(
                "the ranks have different masks",
                where=f"{where}, {name}",
                got=f"others than rank 0 on rank {', '.join(map(str, different))}",
                remedy="wrap the model in DistributedDataParallel, give all ranks the same seed and method, and resume "
                "them from the same checkpoint",
            )
