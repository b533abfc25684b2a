"""Communication between processes that torchrun started, over torch.distributed.

There are two groups of the same processes. Gradients, sums and buffers go over the group of the device, NCCL on CUDA
and gloo on the CPU; everything else goes over a gloo group of its own, which never waits for a device and notices at
once when a process is gone.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from granet import errors
from granet.checkpoint import Checkpoint, codec
from granet.errors import GranetError, LostRankError, TrainingError, UsageError
from granet.masks.mapping import Masks
from granet.masks.packed import PackedMasks
from granet.training.device import reading_waits
from granet.training.distributed import ddp, fingerprints
from granet.training.distributed.agreement import Facts, MaskChecksum, digest, mismatch_error
from granet.training.distributed.batch_norm import sync_batch_norms
from granet.training.distributed.rendezvous import meet
from granet.training.distributed.torchrun import TorchrunRank
from granet.training.distributed.world import Message, Network, World

MEETING = timedelta(minutes=5)
"""How long ranks wait for each other at the start."""
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another that is alive, which may be fetching data. A lost one is noticed at once."""
LEAVING = 5.0
"""Seconds that a rank which lost another takes at most to leave."""


class ProcessGroup(World):
    """Implementation of ``World`` for one of several processes. Every rank has to call the same methods in order."""

    def __init__(self, rank: TorchrunRank, device: torch.device) -> None:
        """Wait for the other ranks and connect to them.

        Raises:
            TrainingError: they do not come.
            UsageError: they compute on different kinds of devices, or on GPUs without NCCL.
        """
        self.ranks, self.device = rank, device
        self.undoes_lost_steps = rank.rank == 0
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
            store, attempts = meet(rank, MEETING)
            dist.init_process_group("gloo", store=store, rank=rank.rank, world_size=rank.size, timeout=MEETING)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                "the ranks did not meet",
                where="MASTER_ADDR and MASTER_PORT",
                got=_first_line(error),
                remedy="look for what another rank says, and whether all machines can reach that address",
            ) from error
        self.restarted = attempts > 1 or rank.restarts > 0
        self._control = dist.group.WORLD
        self._checksum = MaskChecksum()
        self._differ = torch.zeros((), dtype=torch.bool, device=device)
        self._pending: dist.Work | None = None
        self._connect()

    def _connect(self) -> None:
        self.check_equal("kind of device", lambda: {"device": self.device.type}, UsageError)
        with _lost_ranks():
            if self.device.type == "cuda":
                self._work = dist.new_group(backend="nccl", timeout=PATIENCE, device_id=self.device)
            else:
                self._work = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    def sync_batch_norms(self, model: nn.Module) -> nn.Module:
        """See ``World``."""
        return sync_batch_norms(model, self._work, self.device)

    def data_parallel(
        self,
        model: nn.Module,
        images: Callable[[], Tensor],
        autocast: Callable[[], AbstractContextManager[object]],
        *,
        compile: bool,
    ) -> Network:
        """See ``World``."""
        with _lost_ranks():
            network = ddp.data_parallel(model, self._work, compile=compile)
            ddp.settle_buckets(network, model, images(), autocast)
        return network

    @contextmanager
    def gradient_sync(self, network: Network, *, last: bool) -> Iterator[None]:
        """See ``World``."""
        assert isinstance(network, DistributedDataParallel)  # noqa: S101  it is of ``data_parallel``
        with _lost_ranks(), nullcontext() if last else network.no_sync():
            yield

    def sum_metrics(self, loss: Tensor, correct: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """See ``World``; a checksum of the masks travels with the two numbers."""
        mine = torch.stack([loss, correct.double(), self._checksum.of(PackedMasks.of(masks)).double()])
        by_rank = self.all_gather(mine)
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
            self.check_equal("masks", lambda: fingerprints.of_masks(masks))
            raise _everywhere(
                TrainingError(
                    "the masks of the ranks differed for a time",
                    remedy="the last checkpoint is intact; resume from it, and look for a faulty machine",
                )
            )

    def all_gather(self, numbers: Tensor) -> Tensor:
        """See ``World``."""
        whole = numbers.new_empty((self.ranks.size, *numbers.shape))
        with _lost_ranks():
            dist.all_gather(list(whole.unbind()), numbers.contiguous(), group=self._work)
        return whole

    def stop_on_all(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """See ``World``. The flags are reduced while a step is computed, and read after it."""
        flag = torch.zeros((), dtype=torch.int32)
        decided = False

        def poll() -> bool:
            nonlocal decided
            if decided:
                return True
            self._wait()
            decided = bool(flag)
            if not decided:
                flag.fill_(int(stop()))
                with _lost_ranks():
                    self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._control, async_op=True)
            return decided

        return poll

    def _wait(self) -> None:
        """Wait for the flags of ``stop_on_all``, if they are under way."""
        if self._pending is not None:
            with _lost_ranks():
                self._pending.wait()
            self._pending = None

    def any(self, mine: bool) -> bool:
        """See ``World``."""
        return any(self._exchange(b"yes" if mine else b""))

    def check_equal(self, what: str, facts: Callable[[], Facts], error: type[GranetError] = TrainingError) -> None:
        """See ``World``. Hashes are compared; the facts themselves are exchanged only if these differ."""
        with self.share_errors():
            mine = facts()
        if len(set(self._exchange(digest(mine)))) > 1:
            by_rank = [json.loads(text) for text in self._exchange(json.dumps(dict(mine)).encode())]
            raise _everywhere(mismatch_error(what, by_rank, error))

    @contextmanager
    def share_errors(self) -> Iterator[None]:
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
        texts = self._exchange(b"" if mine is None else json.dumps([mine.exit_code, str(mine)]).encode())
        failed = [(rank, *json.loads(text)) for rank, text in enumerate(texts) if text]
        if not failed:
            return
        rank, code, message = failed[0]
        if mine is not None and len(set(texts)) == 1:  # all the same: no matter on which of them
            raise _everywhere(mine)
        kind = UsageError if code == UsageError.exit_code else TrainingError
        raise _everywhere(kind(f"rank {rank}: {message}")) from mine

    def from_rank_zero(self, work: Callable[[], Message | None]) -> Message | None:
        """See ``World``."""
        data: Message | None = None
        error: GranetError | None = None
        if self.is_rank_zero:
            try:
                data = work()
            except GranetError as found:
                error = found
                data = json.dumps([type(error).__name__, str(error)]).encode()
        content = np.frombuffer(b"" if data is None else data, np.uint8)
        header = torch.tensor([data is not None, error is not None, len(content)], dtype=torch.int64)
        with _lost_ranks():
            dist.broadcast(header, 0, group=self._control)
            there, failed, length = header.tolist()
            payload = torch.from_numpy(content.copy()) if self.is_rank_zero else torch.empty(length, dtype=torch.uint8)
            if length:
                dist.broadcast(payload, 0, group=self._control)
        if failed:
            raise _everywhere(error if error is not None else _rebuilt(*json.loads(payload.numpy().tobytes())))
        return payload.numpy() if there else None

    def checkpoint_from_rank_zero(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """See ``World``."""
        found: Checkpoint | None = None

        def encoded() -> memoryview | None:
            nonlocal found
            found = load()
            return None if found is None else codec.encode(found)

        data = self.from_rank_zero(encoded)
        if self.is_rank_zero or data is None:
            return found
        return codec.decode(np.frombuffer(data, np.uint8), "the checkpoint of rank 0")

    def broadcast_buffers(self, model: nn.Module) -> None:
        """See ``World``."""
        for buffer in model.buffers():
            content = buffer.detach().contiguous()
            with _lost_ranks():
                dist.broadcast(content, 0, group=self._work)
            with torch.no_grad():
                buffer.copy_(content)

    def leave(self) -> None:
        """Leave the group once all ranks have called this."""
        self._wait()
        with _lost_ranks():
            dist.barrier(group=self._control)
        dist.destroy_process_group()

    def abandon(self) -> None:
        """Leave the group at once; the other ranks notice that this one is lost."""
        if self.device.type == "cuda":
            dist.distributed_c10d._abort_process_group()  # a kernel that waits for a rank that is gone waits for ever
            return
        # Taking the group apart waits for its threads, and they may be waiting for a rank that is gone.
        ending = threading.Thread(target=dist.destroy_process_group, daemon=True, name="granet-leave")
        ending.start()
        ending.join(LEAVING)

    def _exchange(self, data: bytes) -> list[bytes]:
        """Return the bytes of every rank."""
        lengths = torch.zeros(self.ranks.size, dtype=torch.int64)
        with _lost_ranks():
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


_LOSSES = ("gloo", "connection closed", "connection reset", "nccl", "broken pipe", "process group", "timed out")
"""What torch's errors say when a process cannot be reached: they are all RuntimeErrors."""


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Context that turns torch's errors for an unreachable process into LostRankError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _LOSSES):
            raise LostRankError(
                "lost contact with another rank",
                got=_first_line(error),
                remedy="see the messages of that rank; torchrun --max-restarts N resumes from the last checkpoint",
            ) from error
        raise


def _everywhere(error: GranetError) -> GranetError:
    """Return ``error``, marked as raised by every rank, so that rank 0 alone reports it."""
    error.everywhere = True
    return error


def _rebuilt(name: str, message: str) -> GranetError:
    """Return the error of rank 0, from the name of its class and its message."""
    found = getattr(errors, name, None)
    if found in (
        *(errors.UsageError, errors.RecipeError, errors.DeviceError),
        *(errors.DataError, errors.FileError, errors.CheckpointError),
    ):
        error: GranetError = found(message)
        return error
    return TrainingError(message)


def _first_line(error: Exception) -> str:
    """Return the first sentence of the message, without the position in torch's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return re.sub(r"^\[\S+:\d+\] ", "", first).split(". ")[0][:200]
