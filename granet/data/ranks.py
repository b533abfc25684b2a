"""The part of each batch that a rank computes. Ranks are processes that train one network together, numbered from 0.

Nothing here communicates: a rank's images are a function of its number, so that all ranks together see what one
process would see.
"""

from __future__ import annotations

from dataclasses import dataclass

from granet.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """Rank ``rank`` of ``size`` ranks.

    Raises:
        UsageError: there is no such rank.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise UsageError("no such rank", got=self.rank, expected=f"0 to {self.size - 1}, of {self.size} ranks")

    def share(self, batch_size: int) -> slice:
        """Return the part of a batch of all ranks that this one computes: equal, contiguous parts, in order of rank.

        Raises:
            UsageError: the batch cannot be divided into equal parts.
        """
        if batch_size % self.size:
            raise UsageError(
                "the batch cannot be divided among the ranks",
                where="training.batch_size",
                got=f"{batch_size} images for {self.size} ranks",
                expected=f"a multiple of {self.size}",
                remedy=f"choose {_multiples(batch_size, self.size)}, or another number of processes",
            )
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def check(self, batch_size: int, parts: int) -> None:
        """Raise UsageError if, on several ranks, the share of a batch cannot be divided into ``parts`` equal parts."""
        self.share(batch_size)
        if self.size > 1 and batch_size % (self.size * parts):
            raise UsageError(
                "the share of a rank cannot be divided into equal parts",
                where="training.accumulate",
                got=f"{batch_size // self.size} images of {batch_size} in {parts} parts",
                expected=f"a batch of a multiple of {self.size * parts}",
                remedy=f"choose training.batch_size {_multiples(batch_size, self.size * parts)}, or fewer parts",
            )

    def rounds(self, batches: int) -> int:
        """Return how many of the ``batches`` of an evaluation the busiest rank computes."""
        return -(-batches // self.size)


ALONE = Ranks()


def _multiples(number: int, divisor: int) -> str:
    """Return the multiples of ``divisor`` next to ``number``, as text."""
    below = number // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)
