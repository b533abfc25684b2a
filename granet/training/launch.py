"""The start of a run: at its first step, at the checkpoint of a rewind, or where it was stopped.

``train`` and ``resume`` bring recipe, data, network, ranks and folder together and check that they fit each other.
``granet.training.trainer`` trains from there to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from granet.checkpoint import Checkpoint
from granet.data import Dataset
from granet.errors import CheckpointError, DataError, UsageError
from granet.recipe import Recipe
from granet.rewinding.start_state import start_state
from granet.runs import metrics
from granet.runs.events import Resized, Started, Watch
from granet.runs.folder import RunFolder
from granet.training import starting_weights
from granet.training.device import describe_device, set_determinism
from granet.training.distributed import fingerprints
from granet.training.distributed.world import SINGLE_PROCESS, World
from granet.training.evaluate import Evaluation
from granet.training.run import Run, begin, capture, open_data, restore, split_sizes
from granet.training.trainer import Trainer


def train(
    recipe: Recipe,
    folder: RunFolder,
    device: torch.device,
    *,
    dataset: Dataset | None = None,
    overwrite: bool = False,
    download: bool = False,
    world: World = SINGLE_PROCESS,
    before: Callable[[Run], None] = lambda _: None,
    watch: Watch = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Train ``recipe`` from the beginning into ``folder``; return loss and accuracy of its best epoch on the test set.

    Nothing is written before recipe, data, network and device are known to fit each other. Ranks that torchrun started
    again after the loss of one resume a run of this very recipe.

    Args:
        dataset: that of the recipe, if it is open already.
        overwrite: replace a run in ``folder``.
        download: fetch published data that are not there.
        world: the ranks that train together. Each calls this with the same arguments.
        before: called on rank 0 with the run that is about to begin, and not with one that is resumed. It leaves the
            run as it is.
        watch: called with every event.
        stop: asked before the first step and after every one; True ends the run with the state saved.

    Raises:
        Interrupted: ``stop`` returned True; the state is saved.
        TrainingError: the loss is not finite, or the ranks differ in what must be equal; checkpoints written before
            are intact.
        LostRankError: another rank is gone.
        UsageError: settings that do not fit, or a folder that holds a run.
        DataError, ModelError, CheckpointError: see ``open_data`` and ``granet.training.run.begin``.
    """
    with world.share_errors():
        recipe = starting_weights.with_weights_hash(recipe)
    if world.any(world.restarted):
        with world.share_errors():
            resumable = world.is_rank_zero and folder.holds_run() and folder.open()[0] == recipe
        if world.any(resumable):
            directory = None if recipe.data.directory is None else Path(recipe.data.directory)
            return resume(folder, device, directory=directory, dataset=dataset, world=world, watch=watch, stop=stop)
    world.from_rank_zero(lambda: folder.check_free(overwrite=overwrite))
    set_determinism(deterministic=recipe.training.deterministic)
    with world.share_errors():
        if dataset is None and world.is_rank_zero:
            dataset = open_data(recipe, download=download)
    with world.share_errors():
        if dataset is None:  # after rank 0, which has fetched what was missing, at least on its own machine
            dataset = open_data(recipe, download=download)
    run = _make_run(recipe, dataset, device, world)
    world.from_rank_zero(lambda: before(run))
    with ExitStack() as claimed:

        def create() -> None:
            claimed.enter_context(folder.claimed())
            folder.check_free(overwrite=overwrite)  # once more: another process may have begun here in the meantime
            folder.create(recipe)

        world.from_rank_zero(create)
        watch(_started(run, folder))
        return Trainer(run, folder, watch, stop).finish()


def resume(
    folder: RunFolder,
    device: torch.device,
    *,
    directory: Path | None = None,
    dataset: Dataset | None = None,
    world: World = SINGLE_PROCESS,
    watch: Watch = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Continue the run in ``folder`` as if it had never stopped; arguments and result are those of ``train``.

    Args:
        device: bit-identical to never having stopped on the same kind of device only.
        directory: where the data are now, if they moved.
        world: of which rank 0 alone reads the folder. Bit-identical to never having stopped with as many ranks as
            before only; otherwise a ``Resized`` event says what changes.

    Raises:
        CheckpointError: a damaged checkpoint, or data that are not those of the run.
        Otherwise as ``train``.
    """
    with ExitStack() as claimed:

        def load() -> Checkpoint | None:
            folder.check_run()  # before claiming it, which would make the folder
            claimed.enter_context(folder.claimed())
            return folder.open()[1]

        state = world.checkpoint_from_rank_zero(load)
        recipe = state.recipe if state is not None else _recipe_without_checkpoint(world, folder)
        set_determinism(deterministic=recipe.training.deterministic)
        with world.share_errors():
            data = open_data(recipe, directory=directory) if dataset is None else dataset
        run = _make_run(recipe, data, device, world, state)

        def remove_leftovers() -> None:
            metrics.remove_later(folder, step=run.step, epochs=run.epochs_done, tested="test" in run.metrics)
            kept = folder.kept_steps()
            if run.step in kept:
                folder.remove_kept(run.retention.obsolete(kept, run.step))

        world.from_rank_zero(remove_leftovers)
        watch(_started(run, folder))
        if (resized := _resized(run, state)) is not None:
            watch(resized)
        return Trainer(run, folder, watch, stop, saved=state is not None).finish()


def _recipe_without_checkpoint(world: World, folder: RunFolder) -> Recipe:
    """Return the recipe of a run that was stopped before its first checkpoint."""
    text = world.from_rank_zero(lambda: folder.open()[0].to_toml().encode())
    assert text is not None  # noqa: S101  it is what the function above returns
    return Recipe.from_toml(bytes(text).decode(), where=folder.recipe_file)


def _make_run(
    recipe: Recipe, dataset: Dataset, device: torch.device, world: World, state: Checkpoint | None = None
) -> Run:
    """Return the run at ``state``, or else where its recipe starts.

    Raises:
        UsageError, DataError: the ranks differ in software, recipe or data; on every rank.
        Otherwise as ``train`` and ``resume``.
    """
    with world.share_errors():
        run = begin(recipe, dataset, device, fresh=state is None, world=world)
    world.check_equal("software", lambda: fingerprints.of_software(device, run.precision), UsageError)
    world.check_equal("recipe", lambda: fingerprints.of_recipe(recipe), UsageError)
    world.check_equal("data", lambda: fingerprints.of_data(dataset), DataError)
    if state is None and recipe.rewind is not None:
        state = world.checkpoint_from_rank_zero(lambda: start_state(capture(run)))
    if state is not None:
        with world.share_errors():
            restore(run, state)
    return run


def _resized(run: Run, state: Checkpoint | None) -> Resized | None:
    """Return the event for a run that resumes with another number of ranks than wrote its checkpoint; else None."""
    if state is None or state.step >= run.total_steps:
        return None
    before, now = state.progress.get("ranks", 1), run.world.ranks.size
    if not isinstance(before, int) or before < 1:
        raise CheckpointError("not a number of ranks", where="progress.ranks", got=before)
    if before == now:
        return None
    changes = ["sums over a batch are rounded otherwise, and draws such as those of dropout are others"]
    if not run.recipe.training.sync_batch_norm:
        share = run.recipe.training.batch_size // run.recipe.training.accumulate
        changes.append(f"batch norms see {share // now} images at a time instead of {share // before}")
    return Resized(step=run.step, before=before, now=now, changes="; ".join(changes))


def _started(run: Run, folder: RunFolder) -> Started:
    return Started(
        folder=folder.path,
        device=describe_device(run.device),
        on_gpu=run.device.type == "cuda",
        precision=run.precision,
        ranks=run.world.ranks.size,
        step=run.step,
        total_steps=run.total_steps,
        steps_per_epoch=run.pipeline.steps_per_epoch,
        epochs=run.epochs,
        parameters=sum(mask.numel() for mask in run.sparsifier.masks.values()),
        density=run.sparsifier.density,
        examples=split_sizes(run.dataset),
        notes=(*_first_notes(run), *run.matrices.notes(run.sparsifier.masks)),
    )


def _first_notes(run: Run) -> tuple[str, ...]:
    """Return what is said when a run begins, and not when it is resumed."""
    if run.step:
        return ()
    notes, asked = starting_weights.notes(run.metrics), run.recipe.training.memory_format
    if run.device.type == "cuda" and asked is None and run.memory_format is not torch.channels_last:
        return (
            *notes,
            "images are contiguous, since the network fails on those in channels_last, which would be faster",
        )
    return notes
