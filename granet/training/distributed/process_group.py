"""The ranks that train together, as processes that torchrun started.

There are two groups of the same processes. Gradients, sums and buffers go over the group of the device, NCCL on CUDA
and gloo on the CPU; whatever is agreed on goes over a gloo group of its own, which never waits for a device and
notices at once when a process is gone.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from granet import errors
from granet.errors import GranetError, LostRankError, TrainingError, UsageError
from granet.masks.codec import Bytes
from granet.masks.mapping import Masks
from granet.masks.packed import PackedMasks
from granet.training.device import reading_waits
from granet.training.distributed import fingerprints, mismatch
from granet.training.distributed.checksum import Checksum
from granet.training.distributed.rendezvous import meet
from granet.training.distributed.torchrun import TorchrunRank
from granet.training.distributed.world import Facts, Result, TrainableNetwork, World

if TYPE_CHECKING:
    from granet.training.distributed.ddp import Reduced

MEETING = timedelta(minutes=5)
"""How long ranks wait for each other at the start."""
PATIENCE = timedelta(minutes=30)
"""How long one waits for another that is alive, which may be fetching data. One that is gone is noticed at once."""


LEAVING = 5.0
"""Seconds that a rank which lost another takes at most to leave."""


class ProcessGroup(World):
    """One of several processes, which do the same at the same time. Every method is to be called by all of them."""

    def __init__(self, place: TorchrunRank, device: torch.device) -> None:
        """Meets the other ranks; see ``join``."""
        self.ranks, self.device = place.ranks, device
        store, attempts = meet(place.ranks, MEETING)
        self.again = attempts > 1
        dist.init_process_group(
            "gloo", store=store, rank=place.ranks.rank, world_size=place.ranks.size, timeout=MEETING
        )
        self._control = dist.group.WORLD
        self._checksum = Checksum()
        self._differ = torch.zeros((), dtype=torch.bool, device=device)
        self._pending: dist.Work | None = None

    @classmethod
    def join(cls, place: TorchrunRank, device: torch.device) -> ProcessGroup:
        """Meets the other ranks.

        Raises:
            TrainingError: they do not come.
            UsageError: they compute on different kinds of devices, or on GPUs without NCCL.
        """
        if device.type == "cuda":
            if not dist.is_nccl_available():
                raise UsageError(
                    "several ranks on GPUs need NCCL, which this build of torch does not have",
                    where="device",
                    got=f"torch {torch.__version__}",
                    remedy="install torch for Linux with CUDA, or train on the CPU with --device cpu",
                )
            torch.cuda.set_device(device)
        try:
            group = cls(place, device)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                "the ranks did not meet",
                where="MASTER_ADDR and MASTER_PORT",
                got=_line(error),
                remedy="look for what another rank says, and whether all machines can reach that address",
            ) from error
        group._connect()
        return group

    def _connect(self) -> None:
        self.agree("kind of device", lambda: {"device": self.device.type}, UsageError)
        with _reaching():
            if self.device.type == "cuda":
                self._work = dist.new_group(backend="nccl", timeout=PATIENCE, device_id=self.device)
            else:
                self._work = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    def normalised(self, model: nn.Module) -> nn.Module:
        """See ``World``."""
        from granet.training.distributed.batch_norm import over_ranks

        return over_ranks(model, self._work, self.device)

    def network(
        self,
        model: nn.Module,
        images: Callable[[], Tensor],
        number_format: Callable[[], AbstractContextManager[object]],
        *,
        compile: bool,
    ) -> TrainableNetwork:
        """See ``World``."""
        from granet.training.distributed.ddp import Reduced

        network: Reduced = Reduced(model, self._work, _reaching, compile=compile)
        network.settle(images(), number_format)
        return network

    def totals(self, loss: Tensor, correct: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """See ``World``; a sum over the bits of the masks travels with the two numbers."""
        mine = torch.stack([loss, correct.double(), self._checksum.of(PackedMasks.of(masks)).double()])
        by_rank = self.gathered(mine)
        sums = by_rank[0, :2].clone()
        for numbers in by_rank[1:]:  # in the order of the ranks, so that every rank rounds alike, at any size
            sums += numbers[:2]
        self._differ |= (by_rank[:, 2] != by_rank[0, 2]).any()
        if not reading_waits(self.device):
            self.check_masks(masks)
        return sums[0], sums[1].to(torch.int64)

    def check_masks(self, masks: Masks) -> None:
        """See ``World``."""
        if bool(self._differ):
            self.agree("masks", lambda: fingerprints.of_masks(masks))
            raise _everywhere(
                TrainingError(
                    "the masks of the ranks differed for a time",
                    remedy="the last checkpoint is intact; go on from it, and look for a faulty machine",
                )
            )

    def gathered(self, numbers: Tensor) -> Tensor:
        """See ``World``."""
        whole = numbers.new_empty((self.ranks.size, *numbers.shape))
        with _reaching():
            dist.all_gather(list(whole.unbind()), numbers.contiguous(), group=self._work)
        return whole

    def polled(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """See ``World``. The question is under way while a step is computed, and its answer read after that."""
        flag = torch.zeros((), dtype=torch.int32)
        decided = False

        def poll() -> bool:
            nonlocal decided
            if decided:
                return True
            if self._pending is not None:
                with _reaching():
                    self._pending.wait()
                self._pending = None
                decided = bool(flag)
            if not decided:
                flag.fill_(int(stop()))
                with _reaching():
                    self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._control, async_op=True)
            return decided

        return poll

    def any(self, mine: bool) -> bool:
        """See ``World``."""
        return any(self._exchange(b"yes" if mine else b""))

    def agree(self, what: str, facts: Callable[[], Facts], kind: type[GranetError] = TrainingError) -> None:
        """See ``World``. Hashes are compared; only where they differ the facts themselves are."""
        with self.together():
            mine = facts()
        hashes = self._exchange(mismatch.digest(mine))
        if len(set(hashes)) == 1:
            return
        told = self._exchange(json.dumps(dict(mine)).encode())
        raise _everywhere(mismatch.difference(what, [json.loads(text) for text in told], kind))

    @contextmanager
    def together(self) -> Iterator[None]:
        """See ``World``."""
        mine: GranetError | None = None
        try:
            yield
        except LostRankError:
            raise
        except GranetError as error:
            if error.everywhere:  # the others know
                raise
            mine = error
        told = self._exchange(b"" if mine is None else json.dumps([mine.exit_code, str(mine)]).encode())
        failed = [(rank, *json.loads(text)) for rank, text in enumerate(told) if text]
        if not failed:
            return
        rank, code, message = failed[0]
        if mine is not None and len(set(told)) == 1:  # all the same: no matter on which of them
            raise _everywhere(mine)
        kind = UsageError if code == UsageError.exit_code else TrainingError
        raise _everywhere(kind(f"rank {rank}: {message}")) from mine

    def from_first(self, work: Callable[[], Bytes | memoryview | bytes | None]) -> Bytes | memoryview | bytes | None:
        """See ``World``."""
        data: Bytes | memoryview | bytes | None = None
        error: GranetError | None = None
        if self.first:
            try:
                data = work()
            except GranetError as found:
                error = found
        kind = "error" if error is not None else "nothing" if data is None else "data"
        kinds = ("data", "nothing", "error")
        if error is not None:
            data = json.dumps([type(error).__name__, str(error)]).encode()
        content = np.frombuffer(b"" if data is None else data, np.uint8)
        header = torch.tensor([kinds.index(kind), len(content)])
        with _reaching():
            dist.broadcast(header, 0, group=self._control)
            payload = torch.from_numpy(content.copy()) if self.first else torch.empty(int(header[1]), dtype=torch.uint8)
            if len(payload):
                dist.broadcast(payload, 0, group=self._control)
        kind = kinds[int(header[0])]
        if kind == "error":
            raise _everywhere(error if error is not None else _rebuilt(*json.loads(payload.numpy().tobytes())))
        return None if kind == "nothing" else payload.numpy()

    def same_buffers(self, model: nn.Module) -> None:
        """See ``World``."""
        for buffer in model.buffers():
            content = buffer.detach().contiguous()
            with _reaching():
                dist.broadcast(content, 0, group=self._work)
            with torch.no_grad():
                buffer.copy_(content)

    def mark(self, take: Callable[[], Result]) -> Result | None:
        """See ``World``."""
        return take() if self.first else None

    def leave(self) -> None:
        """Ends the membership in good order: nothing is going to be asked of the others any more."""
        if self._pending is not None:
            with _reaching():
                self._pending.wait()
            self._pending = None
        with _reaching():
            dist.barrier(group=self._control)
        dist.destroy_process_group()

    def abandon(self) -> None:
        """Ends it at once, whatever the others are doing; they will notice."""
        if self.device.type == "cuda":
            dist.distributed_c10d._abort_process_group()  # a kernel that waits for a rank that is gone waits for ever
            return
        # Taking the group apart waits for its threads, and they may be waiting for a rank that is gone.
        ending = threading.Thread(target=dist.destroy_process_group, daemon=True, name="granet-leave")
        ending.start()
        ending.join(LEAVING)

    def _exchange(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, by rank."""
        lengths = torch.zeros(self.ranks.size, dtype=torch.int64)
        with _reaching():
            dist.all_gather(
                [lengths[rank : rank + 1] for rank in range(self.ranks.size)],
                torch.tensor([len(data)]),
                group=self._control,
            )
            longest = int(lengths.max())
            if longest == 0:
                return [b""] * self.ranks.size
            mine = torch.zeros(longest, dtype=torch.uint8)
            mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else mine[:0]
            whole = torch.empty(self.ranks.size, longest, dtype=torch.uint8)
            dist.all_gather(list(whole.unbind()), mine, group=self._control)
        rows = whole.numpy()
        return [row[:length].tobytes() for row, length in zip(rows, lengths.tolist(), strict=True)]


_Error = GranetError
_LOSSES = ("gloo", "connection closed", "connection reset", "nccl", "broken pipe", "process group", "timed out")
"""What torch's errors say when a process cannot be reached: they are all RuntimeErrors."""


@contextmanager
def _reaching() -> Iterator[None]:
    """Tells the loss of a rank as such."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _LOSSES):
            raise LostRankError(
                "lost contact with another rank",
                got=_line(error),
                remedy="see what that rank says; torchrun --max-restarts N goes on from the last checkpoint by itself",
            ) from error
        raise


def _everywhere(error: _Error) -> _Error:
    """``error``, known to be raised by every rank."""
    error.everywhere = True
    return error


def _rebuilt(name: str, message: str) -> GranetError:
    """The error of rank 0, from its kind and its message."""
    found = getattr(errors, name, None)
    if found in (
        *(errors.UsageError, errors.RecipeError, errors.DeviceError),
        *(errors.DataError, errors.FileError, errors.CheckpointError),
    ):
        error: GranetError = found(message)
        return error
    return TrainingError(message)


def _line(error: Exception) -> str:
    """The first sentence of what it says, without the place in the sources of torch."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return re.sub(r"^\[\S+:\d+\] ", "", first).split(". ")[0][:200]
