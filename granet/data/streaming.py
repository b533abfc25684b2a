"""Batches of images that stay on disk: worker processes decode and augment them.

Workers are started from a fork server, not forked from this process: this process may hold a CUDA context and
has threads, neither of which survives a fork, and Python warns of it from 3.12 on. The server imports torch
once, and every worker after that takes a fraction of a second. Windows has no fork server and spawns.

Batches cross from process to process as bytes, a quarter of the floats that they become on the device, in shared
memory: only their place in it is sent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from granet.data.augment import Augmentation, draw_each
from granet.data.dataset import Dataset, Stored
from granet.data.images import ImageReader, evaluation_view, fill, fill_window, window_view
from granet.data.shared_batches import PREFETCH, SharedBatches
from granet.errors import DataError
from granet.randomness import key

KEPT = 4
"""Blocks of memory, of 16 MiB at most, that Pillow keeps in a worker from one image to the next."""


@dataclass(frozen=True)
class BatchRequest:
    """A batch to make: which examples, and the epoch whose draws augment them, or None for evaluation."""

    indices: list[int]
    epoch: int | None


class ImageDecoder(TorchDataset["Tensor | DataError"]):
    """Decode the images of the batch that is requested, uint8 [B, 3, S, S]; it is copied to every worker.

    Draws are keyed by (seed, "augment", epoch, index), so it does not matter which worker makes them.

    Args:
        stored: where the images are.
        image_size: S.
        augment, seed: what is drawn.
        shared: the memory that workers write into, if there are any.
    """

    def __init__(
        self, stored: Stored, image_size: int, *, augment: Augmentation, seed: int, shared: SharedBatches | None = None
    ) -> None:
        self._reader: ImageReader = stored.reader()
        self._image_size, self._augment, self._seed = image_size, augment, seed
        self._shared = shared
        self._turn = 0

    def __getitem__(self, request: BatchRequest) -> Tensor | DataError:
        worker, count = get_worker_info(), len(request.indices)
        if worker is None or self._shared is None:
            pixels = torch.empty(count, self._image_size, self._image_size, 3, dtype=torch.uint8)
            batch = pixels.permute(0, 3, 1, 2)
        else:
            self._turn += 1
            pixels, batch = self._shared.slot(worker.id, self._turn, count)
        # The error is returned as a value: raised here, it would reach the user with a worker's traceback in it.
        try:
            self._fill(pixels.numpy(), request)
        except DataError as error:
            return error
        return batch

    def _fill(self, pixels: NDArray[np.uint8], request: BatchRequest) -> None:
        images, side = self._reader.images(request.indices), self._image_size
        if request.epoch is None or self._augment == "none":
            fill(pixels, (evaluation_view(image, side) for image in images))
            return
        # All draws come first: between images, with torch's code gone from the caches, they take ten times as long.
        drawn = draw_each(
            self._augment, [key(self._seed, "augment", request.epoch, index) for index in request.indices]
        )
        if self._augment == "resized-crop-flip":
            views = zip(images, drawn, strict=True)
            fill(pixels, (window_view(image, crop.window(image.height, image.width), side) for image, crop in views))
            return
        for target, image, crop in zip(pixels, images, drawn, strict=True):
            fill_window(target, evaluation_view(image, side), crop.window(side, side))


class StreamingImages:
    """The images of a dataset whose splits all stay on disk; see :class:`granet.data.pipeline.BatchImages`.

    Args:
        dataset: whose images.
        device: where the batches are wanted.
        seed, augment: what is drawn, keyed by (seed, "augment", epoch, index).
        batch_size: examples per training step, of all ranks together.
        share: the part of each training batch that this rank computes.
        workers: processes that decode, 0 for none but this one. Those of training are kept for the whole run.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        *,
        seed: int,
        augment: Augmentation,
        batch_size: int,
        share: slice,
        workers: int,
    ) -> None:
        self._dataset, self._device = dataset, device
        self._seed, self._augment, self._workers = seed, augment, workers
        self._batch_size, self._share = batch_size, share
        self._schedule: list[BatchRequest] = []
        """The batches that the workers of training make next."""
        self._turn = 0
        if workers:
            _start_method()  # the server of the workers imports torch while the network is made

    @cached_property
    def _training(self) -> DataLoader[Tensor | DataError]:
        """Made when first wanted: memory for its batches is taken then."""
        batches, size = len(self._dataset.train) // self._batch_size, len(range(self._batch_size)[self._share])
        return self._loader("train", self._schedule, self._workers, batch_size=size, batches=batches, persistent=True)

    def training(self, order: Tensor, epoch: int, start: int) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield augmented batches of the training split; an iterator ends (RuntimeError) once a later one has begun."""
        self._schedule[:] = [BatchRequest(indices, epoch) for indices in order.tolist()]
        self._turn = turn = self._turn + 1
        for images in move(receive(self._training), self._device):
            yield images
            if self._turn != turn:
                raise RuntimeError("the workers have gone on to another iterator of batches()")

    def evaluation(self, split: str, parts: Sequence[range]) -> Iterator[Tensor]:
        """Yield the examples of each part of a split, without augmentation; each call has workers of its own."""
        requests, workers = [BatchRequest(list(part), None) for part in parts], min(self._workers, len(parts))
        size = max(map(len, parts), default=0)
        loader = self._loader(split, requests, workers, batch_size=size, batches=len(parts), persistent=False)
        return move(receive(loader), self._device)

    def _loader(
        self,
        split: str,
        schedule: list[BatchRequest],
        workers: int,
        *,
        batch_size: int,
        batches: int,
        persistent: bool,
    ) -> DataLoader[Tensor | DataError]:
        stored, side = cast(Stored, self._dataset.split(split)), self._dataset.image_size
        shared = SharedBatches(workers, batches, (batch_size, side, side, 3)) if workers else None
        return DataLoader(
            ImageDecoder(stored, side, augment=self._augment, seed=self._seed, shared=shared),
            batch_size=None,
            sampler=schedule,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            collate_fn=_unchanged,
            pin_memory=self._device.type == "cuda",
            persistent_workers=persistent and workers > 0,
            multiprocessing_context=_start_method() if workers else None,
            worker_init_fn=_prepare_worker,
            # Unused, but without one the loader would draw from the caller's global generator.
            generator=torch.Generator(),
        )


def receive(loader: DataLoader[Tensor | DataError]) -> Iterator[Tensor]:
    """Yield what the workers deliver, and raise here the errors that they send.

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
        # An exception raised in a worker says so, and is a bug. Anything else means that a worker no longer answers.
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
    """Yield the batches on ``device``. On CUDA each is copied, on a stream of its own, while the last one computes."""
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
            yield _synchronised(*underway)
        underway = following
    if underway is not None:
        yield _synchronised(*underway)


def _synchronised(batch: Tensor, copied: torch.cuda.Event) -> Tensor:
    """Return the batch for use by the current stream, which waits for the copy; the processor does not."""
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
        # A trainer that is killed cannot end its workers, and their own parent, the fork server, does not die with it.
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    if "PILLOW_BLOCKS_MAX" not in os.environ:
        # The next image reuses the memory of the last. Returning it to the system and asking again would take a
        # twentieth of a worker's time with photographs.
        Image.core.set_blocks_max(KEPT)  # type: ignore[attr-defined]
    # Ctrl-C reaches every process of the terminal; the one that trains decides when to stop, and may need batches
    # until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)
