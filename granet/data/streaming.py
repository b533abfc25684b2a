"""The pipeline for data that stays on disk: worker processes decode and augment, the device normalises.

Workers are started from a fork server, not forked from this process: this process may hold a CUDA context and
has threads, neither of which survives a fork, and Python warns of it from 3.12 on. The server imports torch
once, and every worker after that takes a fraction of a second. Windows has no fork server and spawns.

Batches cross from process to process as bytes, a quarter of the floats that they become on the device.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from granet.data.augment import Augmentation, Roll, roll
from granet.data.dataset import Dataset, Reader, Stored
from granet.data.images import fill, whole_view, window_view
from granet.data.normalise import Normalise
from granet.data.order import training_order
from granet.errors import DataError
from granet.randomness import generator
from granet.ranks import ALONE, Ranks

PREFETCH = 2
"""Batches that each worker makes in advance."""

PLACES = PREFETCH + 2
"""Batches that a worker has memory for: those in advance, the one in use, and one to be on the safe side."""


@dataclass(frozen=True)
class BatchRequest:
    """A batch to be made: which examples, and the epoch whose draws augment them, or None for evaluation."""

    indices: list[int]
    epoch: int | None


class Decoder(TorchDataset[Tensor | DataError]):
    """Makes the images of the batch that is requested, uint8 [B, 3, S, S]; it is copied to every worker.

    Draws are keyed by (seed, "augment", epoch, index), so it does not matter which worker makes them.
    """

    def __init__(self, stored: Stored, image_size: int, *, augment: Augmentation, seed: int) -> None:
        self._reader: Reader = stored.reader()
        self._image_size, self._augment, self._seed = image_size, augment, seed
        self._places: dict[int, Tensor] = {}
        self._turn = 0

    def __getitem__(self, request: BatchRequest) -> Tensor | DataError:
        # The error is handed over as a value: raised here, it would reach the user with a worker's traceback in it.
        pixels = self._memory(len(request.indices))
        try:
            fill(pixels.numpy(), self._images(request))
        except DataError as error:
            return error
        return pixels.permute(0, 3, 1, 2)

    def _memory(self, count: int) -> Tensor:
        """Bytes for ``count`` images, to be written; in a worker they are shared with the process that trains.

        Pages of shared memory are slow to come by, so a worker uses the same ones over and over.
        """
        if get_worker_info() is None:
            return torch.empty(count, self._image_size, self._image_size, 3, dtype=torch.uint8)
        self._turn = (self._turn + 1) % PLACES
        place = self._places.get(self._turn)
        if place is None or len(place) < count:
            self._places[self._turn] = place = _shared(count, self._image_size, self._image_size, 3)
        return place[:count]

    def _images(self, request: BatchRequest) -> Iterator[Image.Image]:
        images = self._reader.images(request.indices)
        if request.epoch is None or self._augment == "none":
            return (whole_view(image, self._image_size) for image in images)
        # All draws come first: between images torch would find its code gone from the caches, ten times as slow.
        keys = (generator(self._seed, "augment", request.epoch, index) for index in request.indices)
        rolls = [roll(self._augment, key) for key in keys]
        return (self._augmented(image, drawn) for image, drawn in zip(images, rolls, strict=True))

    def _augmented(self, image: Image.Image, drawn: Roll) -> Image.Image:
        if self._augment != "resized-crop-flip":
            image = whole_view(image, self._image_size)
        return window_view(image, drawn.window(image.height, image.width), self._image_size)


def _shared(*shape: int) -> Tensor:
    """Memory that other processes can map, as torch's own collate makes it."""
    like = torch.empty(0, dtype=torch.uint8)
    storage = like.untyped_storage()._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return like.set_(storage, 0, torch.Size(shape), torch.empty(shape, device="meta").stride())


class StreamingPipeline:
    """Batches of a dataset whose splits all stay on disk."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        augment: Augmentation,
        workers: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._dataset, self._batch_size, self._device = dataset, batch_size, device
        self._seed, self._augment, self._workers = seed, augment, workers
        self._ranks, self._share = ranks, ranks.share(batch_size)
        self._normalise = Normalise(dataset.mean, dataset.std, device)
        # The workers of training are kept for the whole run; what they do next is written into this list.
        self._schedule: list[BatchRequest] = []
        self._training = self._loader("train", self._schedule, workers, persistent=workers > 0)
        self._turn = 0
        self.train_examples = len(dataset.train)
        self.steps_per_epoch = self.train_examples // batch_size

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`granet.data.pipeline.Pipeline`; draws are keyed by (seed, "augment", epoch, index).

        All iterators share the workers, so an iterator ends for good (RuntimeError) where a later one begins.
        """
        order = training_order(self.train_examples, self._batch_size, seed=self._seed, epoch=epoch, start=start)
        return self._batches(order[:, self._share], epoch)

    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._schedule[:] = [BatchRequest(indices, epoch) for indices in order.tolist()]
        self._turn = turn = self._turn + 1
        labels = self._dataset.train.labels[order].to(self._device)
        for images, answers in zip(move(receive(self._training), self._device), labels, strict=True):
            yield self._normalise(images), answers
            if self._turn != turn:
                raise RuntimeError("the workers have gone on to another iterator of batches()")

    def evaluation(self, split: str, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`granet.data.pipeline.Pipeline`; each call has workers of its own."""
        labels = self._dataset.split(split).labels
        parts = [range(len(labels))[start : start + batch_size] for start in range(0, len(labels), batch_size)]
        parts = parts[self._ranks.rank :: self._ranks.size]
        requests, workers = [BatchRequest(list(part), None) for part in parts], min(self._workers, len(parts))
        loader, labels = self._loader(split, requests, workers, persistent=False), labels.to(self._device)
        for images, part in zip(move(receive(loader), self._device), parts, strict=True):
            yield self._normalise(images), labels[part.start : part.stop]

    def _loader(
        self, split: str, schedule: list[BatchRequest], workers: int, *, persistent: bool
    ) -> DataLoader[Tensor | DataError]:
        stored = cast(Stored, self._dataset.split(split))
        return DataLoader(
            Decoder(stored, self._dataset.image_size, augment=self._augment, seed=self._seed),
            batch_size=None,
            sampler=schedule,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            collate_fn=_unchanged,
            pin_memory=self._device.type == "cuda",
            persistent_workers=persistent,
            multiprocessing_context=_start_method() if workers else None,
            worker_init_fn=_prepare_worker,
            # Unused, but without one the loader would draw from the caller's global generator.
            generator=torch.Generator(),
        )


def receive(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor]:
    """What the workers deliver; what went wrong there is raised here.

    Raises:
        DataError: an image cannot be read, or a worker is gone.
    """
    batch = None
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except (RuntimeError, EOFError, OSError) as error:
        # What a worker raised says so, and is a bug. Anything else means that a worker no longer answers.
        if loader.num_workers == 0 or "in DataLoader worker process" in str(error):
            raise
        raise DataError(
            "a worker process has died",
            got=repr(error),
            remedy="memory may have run out: use fewer workers, or give the machine or /dev/shm more",
        ) from error
    finally:
        # An error's traceback holds this frame. Were the frame to hold the error too, the two would await garbage
        # collection, which takes a loader apart in an order that leaves each worker waiting for seconds.
        del batch


def move(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same batches on ``device``. On CUDA each is on its way, on a stream of its own, while the last computes."""
    if device.type != "cuda":
        for images in batches:
            yield images.to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    underway: tuple[Tensor, torch.cuda.Event] | None = None
    for images in batches:
        with torch.cuda.stream(copying):
            copy = images.to(device, non_blocking=True)
        following = copy, copying.record_event()
        if underway is not None:
            yield _arrived(*underway)
        underway = following
    if underway is not None:
        yield _arrived(*underway)


def _arrived(batch: Tensor, copied: torch.cuda.Event) -> Tensor:
    """The batch, for use by the current stream, which waits for the copy; the processor does not."""
    stream = torch.cuda.current_stream(batch.device)
    stream.wait_event(copied)
    # The memory belongs to the copying stream, which must not reuse it before the current one is done with it.
    batch.record_stream(stream)
    return batch


def _start_method() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Ctrl-C would end the server with a traceback while it imports torch. What is blocked here it inherits.
    resource_tracker.ensure_running()  # it would unblock, were it started by the server's start
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(_worker: int) -> None:
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        # A trainer that is killed cannot tell its workers to end, and their own parent, the server, lives on with them.
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    # Ctrl-C reaches every process of the terminal; the one that trains decides when to stop, and may want
    # batches until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)
