"""Checkpoints written by a thread in the background.

The state is encoded while the next forward and backward pass run, which change neither weights nor masks nor optimizer
state; training waits for the encoder only before it changes them. Writing to disk continues after that. At most one
save is under way; its error is raised at the next step, and ``close`` waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from granet.checkpoint import Checkpoint, codec
from granet.files import atomic


@dataclass
class _Save:
    """One save under way."""

    state: Checkpoint
    paths: Sequence[Path]
    obsolete: Sequence[Path]
    ready: torch.cuda.Event | None
    encoded: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class CheckpointThread:
    """Thread that writes checkpoints, one at a time."""

    def __init__(self, device: torch.device) -> None:
        self._save: _Save | None = None
        self._thread: threading.Thread | None = None
        # torch has no types for its CUDA streams and events
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def submit(self, state: Checkpoint, paths: Sequence[Path], *, obsolete: Sequence[Path] = ()) -> None:
        """Begin to write ``state`` to each of ``paths``, in this order, and then to remove ``obsolete`` files.

        The tensors of ``state`` may be those of the network, if ``release`` is called before they change. Waits for the
        save before this one, and raises its error.
        """
        self.close()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(torch.cuda.current_stream(self._stream.device))
        self._save = _Save(state, paths, obsolete, ready)
        # Not a daemon: a process that leaves without close() still finishes what it began to write.
        self._thread = threading.Thread(target=self._run, args=(self._save,), name="granet-save")
        self._thread.start()

    def release(self) -> None:
        """Wait until the submitted tensors are no longer read; raise the error of a save that failed."""
        if self._save is not None:
            self._save.encoded.wait()
            if self._save.error is not None:
                self.close()

    def close(self) -> None:
        """Wait until everything submitted is on disk; raise the error of a save that failed."""
        if self._thread is not None:
            self._thread.join()
        save, self._save, self._thread = self._save, None, None
        if save is not None and save.error is not None:
            raise save.error

    def _run(self, save: _Save) -> None:
        try:
            if self._stream is not None and save.ready is not None:
                # Copies leave on a stream of their own, so that they need not wait for the work queued after them.
                with torch.cuda.stream(self._stream):
                    self._stream.wait_event(save.ready)
                    data = codec.encode(save.state)
            else:
                data = codec.encode(save.state)
            save.encoded.set()
            for path in save.paths:
                atomic.write(path, data)
            for path in save.obsolete:  # only now that what replaces them is safe
                path.unlink(missing_ok=True)
        except BaseException as error:  # it belongs to the thread that waits
            save.error = error
        finally:
            save.encoded.set()
