"""Where a run begins: at its first step, at a checkpoint that it is rewound to, or where it was stopped.

``train`` and ``resume`` bring recipe, data, network, ranks and folder together and see that they fit each other.
``granet.training.trainer`` takes the run from there to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from granet import checkpoint
from granet.data import Dataset
from granet.errors import CheckpointError, DataError, UsageError
from granet.recipe import Recipe
from granet.rewinding.start_state import start_state
from granet.runs.events import Event, Resized, Started, Watch
from granet.runs.folder import RunFolder
from granet.runs.retention import Retention
from granet.training import starting_weights
from granet.training.device import describe_device, use_kernels
from granet.training.distributed import fingerprints
from granet.training.distributed.world import World
from granet.training.evaluate import Evaluation
from granet.training.run import Run, begin, capture, open_data, restore, split_sizes
from granet.training.trainer import Trainer


def _nobody(event: Event) -> None:
    pass


def train(
    recipe: Recipe,
    folder: RunFolder,
    device: torch.device,
    *,
    dataset: Dataset | None = None,
    overwrite: bool = False,
    download: bool = False,
    world: World | None = None,
    restarted: bool = False,
    watch: Watch = _nobody,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Trains ``recipe`` into ``folder`` from the beginning.

    Nothing is written before recipe, data, network and device are known to fit each other.

    Args:
        recipe: the whole of the run.
        folder: where it goes.
        device: where to compute.
        dataset: that of the recipe, where it is open already.
        overwrite: replace a run that is there.
        download: fetch published data that are not there.
        world: the ranks that train together; a single one when left out. Each calls this with the same arguments.
        restarted: go on with a run of this very recipe that the folder holds, as after the loss of a rank.
        watch: told of every event.
        stop: asked before the first step and after every one; True ends the run with the state saved.

    Returns:
        How the best epoch does on the test set.

    Raises:
        Interrupted: ``stop`` said so; the state is saved.
        TrainingError: the loss is not finite, or the ranks differ in what they must have in common; checkpoints
            written before are intact.
        LostRankError: another rank is gone.
        UsageError: settings that do not fit, or a folder that holds a run.
        DataError, ModelError, CheckpointError: see ``open_data`` and ``state.begin``.
    """
    world = World() if world is None else world
    with world.share_errors():
        recipe = starting_weights.settled(recipe)
    restarted = world.any(restarted or world.restarted)
    if restarted and world.from_rank_zero(lambda: b"yes" if _is_there(recipe, folder) else None) is not None:
        place = None if recipe.data.directory is None else Path(recipe.data.directory)
        return resume(folder, device, directory=place, dataset=dataset, world=world, watch=watch, stop=stop)
    world.from_rank_zero(lambda: folder.check_free(overwrite=overwrite))
    use_kernels(deterministic=recipe.training.deterministic)
    with world.share_errors():
        if dataset is None and world.is_rank_zero:
            dataset = open_data(recipe, download=download)
    with world.share_errors():
        if dataset is None:  # after rank 0, which has fetched what was missing, at least on its own machine
            dataset = open_data(recipe, download=download)
        run = begin(recipe, dataset, device, world=world)
    _check_same(run)
    _rewind(run)
    with ExitStack() as held:

        def create() -> None:
            held.enter_context(folder.claimed())
            folder.check_free(overwrite=overwrite)  # once more: somebody else may have begun here in the meantime
            folder.create(recipe)

        world.from_rank_zero(create)
        watch(_started(run, folder))
        return Trainer(run, folder, watch, stop).finish()


def _is_there(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether ``folder`` holds a run of this recipe."""
    return folder.holds_run() and folder.open()[0] == recipe


def _check_same(run: Run) -> None:
    """Raises UsageError or DataError on every rank when they differ in what they begin with."""
    run.world.check_equal("software", lambda: fingerprints.of_software(run.device, run.precision), UsageError)
    run.world.check_equal("recipe", lambda: fingerprints.of_recipe(run.recipe), UsageError)
    run.world.check_equal("data", lambda: fingerprints.of_data(run.dataset), DataError)


def resume(
    folder: RunFolder,
    device: torch.device,
    *,
    directory: Path | None = None,
    dataset: Dataset | None = None,
    world: World | None = None,
    watch: Watch = _nobody,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Goes on with the run in ``folder`` as if it had never stopped.

    Args:
        folder: holds the run.
        device: where to compute; bit-identical to never having stopped on the same kind of device only.
        directory: where the data are now, when they moved.
        dataset: that of the run, where it is open already.
        world: the ranks that go on together, of which the first one alone looks into the folder. Bit-identical to
            never having stopped with as many ranks as before only; with others watchers are told what changes.
        watch, stop: as for ``train``.

    Returns:
        How the best epoch does on the test set.

    Raises:
        CheckpointError: a damaged checkpoint, or data that are not those of the run.
        Otherwise as ``train``.
    """
    world = World() if world is None else world
    with ExitStack() as held:

        def claim() -> checkpoint.Checkpoint | None:
            folder.check_run()  # before claiming it, which would make the folder
            held.enter_context(folder.claimed())
            return folder.open()[1]

        state = world.checkpoint_from_rank_zero(claim)
        recipe = state.recipe if state is not None else _begun(world, folder)
        use_kernels(deterministic=recipe.training.deterministic)
        with world.share_errors():
            data = open_data(recipe, directory=directory) if dataset is None else dataset
            run = begin(recipe, data, device, fresh=state is None, world=world)
        _check_same(run)
        return _go_on(run, state, folder, watch, stop)


def _begun(world: World, folder: RunFolder) -> Recipe:
    """The recipe of a run that has no checkpoint yet."""
    text = world.from_rank_zero(lambda: folder.open()[0].to_toml().encode())
    assert text is not None  # noqa: S101  it is what the function above returns
    return Recipe.from_toml(bytes(text).decode(), where=folder.recipe_file)


def _go_on(
    run: Run, state: checkpoint.Checkpoint | None, folder: RunFolder, watch: Watch, stop: Callable[[], bool]
) -> Evaluation:
    if state is not None:
        with run.world.share_errors():
            restore(run, state)
    else:
        _rewind(run)

    def tidy() -> None:
        folder.rewind_metrics(step=run.step, epochs=run.epochs_done, tested="test" in run.metrics)
        kept = folder.kept_steps()
        if run.step in kept:
            folder.forget(Retention.of(run.recipe, run.pipeline.steps_per_epoch).obsolete(kept, run.step))

    run.world.from_rank_zero(tidy)
    watch(_started(run, folder))
    if (resized := _resized(run, state)) is not None:
        watch(resized)
    return Trainer(run, folder, watch, stop, saved=state is not None).finish()


def _rewind(run: Run) -> None:
    """Puts a run that starts from a checkpoint where it starts; any other is there already."""
    if run.recipe.rewind is not None:
        start = run.world.checkpoint_from_rank_zero(lambda: start_state(capture(run)))
        assert start is not None  # noqa: S101  as the function says
        restore(run, start)


def _resized(run: Run, state: checkpoint.Checkpoint | None) -> Resized | None:
    """What to tell when a run goes on with another number of ranks than its checkpoint was written by."""
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
        notes=starting_weights.notes(run.metrics) if run.step == 0 else (),
    )
