"""Between updates, training only ever hands work to the device: nothing in a step waits for a result.

On CUDA torch itself tells (``set_sync_debug_mode``). Elsewhere the loop is made to believe that reading waits, and
whatever would read, or would copy without saying that nobody waits for it, is caught on its way into torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from granet.data import augment
from granet.methods import METHODS
from granet.recipe import Recipe
from granet.training import RunFolder, train, trainer
from granet.training.run import EpochSums
from tests.synthetic import arrays_dataset, write_image_folder

INTERVAL = 4
SETTINGS = {
    "granet": 'density = 0.2\nend = "9it"',
    "granet-uniform": 'density = 0.2\nend = "9it"',
    "gmp": 'density = 0.2\nend = "9it"',
    "gmp-uniform": 'density = 0.4\nend = "9it"',
    "static": "density = 0.3",
    "dense": "",
}

READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount")
COPYING = (Tensor.cpu, Tensor.tolist)  # Tensor.numpy refuses what is not on the CPU by itself


class Waited(Exception):  # noqa: N818  of these tests only
    """Something waited for the device."""


class _NoReading(TorchDispatchMode):
    """Refuses operations whose result the host, or the size of whose result, has to be read off the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith(("index", "_index")) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for argument in args
            if isinstance(argument, list | tuple)
            for index in argument
        )
        if name in READING or by_mask:
            raise Waited(str(func))
        return func(*args, **(kwargs or {}))


class _NoCopying(TorchFunctionMode):
    """Refuses copies between host and device that wait; on one device all copies might be of that kind."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        targets = (*args, *kwargs.values())
        moves = func is Tensor.to and any(isinstance(target, str | torch.device) for target in targets)
        if func in COPYING or (moves and not kwargs.get("non_blocking")):
            raise Waited(func.__name__)
        return func(*args, **kwargs)


@contextmanager
def watched_from_outside() -> Iterator[None]:
    with _NoCopying(), _NoReading():
        yield


@contextmanager
def watched_by_cuda() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
guards = pytest.mark.parametrize(
    ("device", "guard"),
    [("cpu", watched_from_outside), pytest.param("cuda", watched_by_cuda, marks=needs_gpu)],
    ids=["outside", "cuda"],
)
Guard = Callable[[], AbstractContextManager[None]]


def recipe(method: str = "granet", optimizer: str = "sgd", **settings: str) -> Recipe:
    kind = SETTINGS.get(method, "density = 0.3")
    text = f"""
        name = "tiny"
        model.name = "resnet8"
        data = {{name = "image-folder", augment = "crop-flip"}}
        optimizer = {{name = "{optimizer}", learning_rate = 0.01, weight_decay = 1e-4}}
        schedule = {{name = "cosine", warmup = "2it"}}
        training = {{epochs = 1, batch_size = 4, label_smoothing = 0.1, accumulate = 2}}
        [method]
        name = "{method}"
        {kind}
    """
    if method not in ("static", "dense"):
        text += f'interval = "{INTERVAL}it"'
    return Recipe.from_toml(text, where="test").override(settings)


@pytest.fixture(autouse=True)
def _as_where_reading_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "reading_waits", lambda device: True)
    monkeypatch.setattr(augment, "crop_rows", augment.crop_views)  # the former is for CPUs alone
    # Progress reads the loss, and is not due in a plain step.
    monkeypatch.setattr(trainer, "PROGRESS_SECONDS", math.inf)


def train_watched(given: Recipe, folder: Path, device: str, guard: Guard, **more: Any) -> int:
    """Trains, with the steps between the first and the second update under ``guard``; how many these were."""
    steps, watched = -1, 0
    with ExitStack() as guarded:

        def stop() -> bool:  # is asked before the first step and after each
            nonlocal steps, watched
            steps += 1
            if steps == INTERVAL:
                guarded.enter_context(guard())
            if steps == 2 * INTERVAL - 1:
                guarded.close()
            watched += INTERVAL < steps < 2 * INTERVAL
            return False

        train(given, RunFolder(folder), torch.device(device), stop=stop, **more)
    return watched


def run(given: Recipe, folder: Path, device: str, guard: Guard) -> int:
    return train_watched(given, folder, device, guard, dataset=arrays_dataset(train=48))


@guards
@pytest.mark.parametrize("method", METHODS)
def test_a_step_between_updates_does_not_synchronise(method: str, device: str, guard: Guard, tmp_path: Path) -> None:
    assert run(recipe(method), tmp_path, device, guard) == INTERVAL - 1


@guards
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_do_not_synchronise(optimizer: str, device: str, guard: Guard, tmp_path: Path) -> None:
    assert run(recipe("granet", optimizer), tmp_path, device, guard) == INTERVAL - 1


@guards
@pytest.mark.parametrize("kind", ["none", "crop", "resized-crop-flip"])
def test_augmentation_does_not_synchronise(kind: str, device: str, guard: Guard, tmp_path: Path) -> None:
    given = recipe("static", **{"data.augment": kind, "training.accumulate": "1"})
    assert run(given, tmp_path, device, guard) == INTERVAL - 1


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_streaming_does_not_synchronise_in_any_precision_on_cuda(
    optimizer: str, precision: str, tmp_path: Path
) -> None:
    if (optimizer, precision) == ("rmsprop", "fp16"):
        pytest.skip("torch's scaler reads its verdict before the step of an optimizer that is not fused")
    images = write_image_folder(tmp_path / "images", per_class=20)
    settings = {
        "data.directory": str(images),
        "data.residency": "streaming",
        "data.image_size": "8",
        "data.workers": "1",
        "training.precision": precision,
    }
    given = recipe("granet", optimizer, **settings)
    assert train_watched(given, tmp_path / "run", "cuda", watched_by_cuda) == INTERVAL - 1


READS: dict[str, Callable[[Tensor], object]] = {
    "number": float,
    "condition": bool,
    "list": lambda loss: loss[None].tolist(),
    "host": lambda loss: loss.cpu(),
    "host, by name": lambda loss: loss.to("cpu"),
    "size of a result": lambda loss: loss[None].nonzero(),
    "mask": lambda loss: loss[None][loss[None] > 0],
    "comparison": lambda loss: torch.equal(loss, loss + 1),
}


@guards
@pytest.mark.parametrize("kind", READS)
def test_a_step_that_synchronises_is_caught(
    kind: str, device: str, guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above are not vacuous."""
    add = EpochSums.add

    def reading(sums: EpochSums, loss: Tensor, correct: Tensor, examples: int) -> None:
        add(sums, loss, correct, examples)
        READS[kind](loss.detach())

    monkeypatch.setattr(EpochSums, "add", reading)
    caught = pytest.raises(Waited) if device == "cpu" else pytest.raises(RuntimeError, match="synchroniz")
    with caught:
        run(recipe("static"), tmp_path, device, guard)
