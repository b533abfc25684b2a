"""Training, from the present step to the end.

``train`` drives a ``Run`` as a sequence that only the step and the metrics decide: finish the epoch that is due,
train on to the next boundary, and at the end meet the test set once. Stopping at any point and starting again
therefore needs no memory of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from granet import checkpoint, models
from granet.data import Dataset
from granet.data.pipeline import EVALUATED
from granet.errors import CheckpointError, DataError, Interrupted, LostRankError, TrainingError, UsageError
from granet.randomness import key
from granet.recipe import Recipe
from granet.training import weights
from granet.training.device import describe_device, reading_waits, seed, use_kernels
from granet.training.distributed import fingerprints
from granet.training.distributed.sharing import shared
from granet.training.distributed.world import World
from granet.training.evaluate import Evaluation, autocast, evaluate
from granet.training.events import EpochEnded, Event, Progressed, Resized, Saved, Started, Tested, Updated
from granet.training.folder import RunFolder
from granet.training.learning_rate import learning_rate
from granet.training.pace import Pace
from granet.training.records import Records, Written
from granet.training.retention import Retention
from granet.training.rewinding.start import rewound
from granet.training.state import EpochSums, Run, begin, capture, open_data, restore, split_sizes

Watch = Callable[[Event], None]


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
    with world.together():
        recipe = weights.settled(recipe)
    restarted = world.any(restarted or world.again)
    if restarted and world.from_first(lambda: b"yes" if _is_there(recipe, folder) else None) is not None:
        place = None if recipe.data.directory is None else Path(recipe.data.directory)
        return resume(folder, device, directory=place, dataset=dataset, world=world, watch=watch, stop=stop)
    world.from_first(lambda: folder.check_free(overwrite=overwrite))
    use_kernels(deterministic=recipe.training.deterministic)
    with world.together():
        if dataset is None and world.first:
            dataset = open_data(recipe, download=download)
    with world.together():
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

        world.from_first(create)
        watch(_started(run, folder))
        return Trainer(run, folder, watch, stop).finish()


def _is_there(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether ``folder`` holds a run of this recipe."""
    return folder.holds_run() and folder.open()[0] == recipe


def _check_same(run: Run) -> None:
    """Raises UsageError or DataError on every rank when they differ in what they begin with."""
    run.world.agree("software", lambda: fingerprints.of_software(run.device, run.precision), UsageError)
    run.world.agree("recipe", lambda: fingerprints.of_recipe(run.recipe), UsageError)
    run.world.agree("data", lambda: fingerprints.of_data(run.dataset), DataError)


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

        state = shared(world, claim)
        recipe = state.recipe if state is not None else _begun(world, folder)
        use_kernels(deterministic=recipe.training.deterministic)
        with world.together():
            data = open_data(recipe, directory=directory) if dataset is None else dataset
            run = begin(recipe, data, device, fresh=state is None, world=world)
        _check_same(run)
        return _go_on(run, state, folder, watch, stop)


def _begun(world: World, folder: RunFolder) -> Recipe:
    """The recipe of a run that has no checkpoint yet."""
    text = world.from_first(lambda: folder.open()[0].to_toml().encode())
    assert text is not None  # noqa: S101  it is what the function above returns
    return Recipe.from_toml(bytes(text).decode(), where=folder.recipe_file)


def _go_on(
    run: Run, state: checkpoint.Checkpoint | None, folder: RunFolder, watch: Watch, stop: Callable[[], bool]
) -> Evaluation:
    if state is not None:
        with run.world.together():
            restore(run, state)
    else:
        _rewind(run)

    def tidy() -> None:
        folder.rewind_metrics(step=run.step, epochs=run.epochs_done, tested="test" in run.metrics)
        kept = folder.kept_steps()
        if run.step in kept:
            folder.forget(Retention.of(run.recipe, run.pipeline.steps_per_epoch).obsolete(kept, run.step))

    run.world.from_first(tidy)
    watch(_started(run, folder))
    if (resized := _resized(run, state)) is not None:
        watch(resized)
    return Trainer(run, folder, watch, stop, saved=state is not None).finish()


def _rewind(run: Run) -> None:
    """Puts a run that starts from a checkpoint where it starts; any other is there already."""
    if run.recipe.rewind is not None:
        start = shared(run.world, lambda: rewound(run))
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


class Trainer:
    """Drives one run; see the module."""

    def __init__(
        self, run: Run, folder: RunFolder, watch: Watch, stop: Callable[[], bool], *, saved: bool = False
    ) -> None:
        self.run, self.folder, self.watch = run, folder, watch
        self._asked, self.stop = stop, run.world.polled(stop)
        self._check_ranks()
        settings = run.recipe.training
        number_format = partial(autocast, run.device, run.precision)
        self._network = run.world.network(run.model, self._images, number_format, compile=settings.compile)
        self._loss = nn.CrossEntropyLoss(label_smoothing=run.recipe.training.label_smoothing)
        self._saved_at = run.step if saved else None
        self._retention = Retention.of(run.recipe, run.pipeline.steps_per_epoch)
        self._records = Written(folder, run, begun=saved) if run.world.first else Records()
        self._pace = Pace()
        self._undo: Callable[[], None] | None = None

    def finish(self) -> Evaluation:
        """Goes on from wherever the run stands to its end."""
        try:
            return self._finish()
        finally:
            self._records.close()

    def _finish(self) -> Evaluation:
        run = self.run
        if self._saved_at is None:
            self._save(capture(run))
        try:
            self._obey()
            while run.epochs_done < run.epochs:
                boundary = min((run.epochs_done + 1) * run.pipeline.steps_per_epoch, run.total_steps)
                if run.step < boundary:
                    self._train_to(boundary)
                self._end_epoch()
            return self._test()
        except (Interrupted, DataError, LostRankError) as reason:
            # A signal to the whole job ends the workers too, and the other ranks: what they fail with then is only
            # the stop itself. A step that they cut short has not changed the weights, and is undone.
            if not isinstance(reason, Interrupted) and not self._asked():
                raise
            if isinstance(reason, LostRankError) and self._undo is not None:
                self._undo()
            if self._saved_at != run.step:
                self._save(capture(run), keep=False)
            if isinstance(reason, Interrupted):
                raise
            raise self._interrupted() from reason

    def _train_to(self, boundary: int) -> None:
        run = self.run
        epoch, position = divmod(run.step, run.pipeline.steps_per_epoch)
        run.model.train()
        self._pace.restart(run.step)
        for images, labels in run.pipeline.batches(epoch, start=position):
            self._step(images, labels)
            if run.step < boundary and self._retention.due(run.step):
                self._save(capture(run))
            self._obey()
            if run.step == boundary:  # the last epoch may be cut short
                break

    def _obey(self) -> None:
        """Raises Interrupted when asked to stop."""
        if self.stop():
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted("stopped", where=f"step {self.run.step} of {self.run.total_steps}")

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One optimizer step, with whatever change of topology is due."""
        run = self.run
        rate = learning_rate(run.recipe, run.step, run.pipeline.steps_per_epoch)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        images = self._laid_out(images)
        # Dropout and the like draw from torch's global stream; seeding it by the step makes them resumable.
        seed(run.device, key(run.recipe.seed, "forward", run.step, *run.world.purpose))
        self._undo = run.world.mark(self._way_back)
        run.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(*(batch.chunk(run.recipe.training.accumulate) for batch in (images, labels)), strict=True))
        for number, (part, answers) in enumerate(parts, 1):
            with self._network.part(last=number == len(parts)):
                with autocast(run.device, run.precision):
                    logits = self._network(part)
                    loss = self._loss(logits, answers)
                run.scaler.scale(loss * (len(answers) / len(labels))).backward()
            correct = (logits.detach().argmax(1) == answers).sum()
            sums = run.world.totals(loss.detach().double() * len(answers), correct, run.sparsifier.masks)
            run.sums.add(*sums, len(answers) * run.world.ranks.size)
        if not reading_waits(run.device) or run.sparsifier.method.due(run.step + 1, run.total_steps):
            self._check_finite()  # before anything is selected by magnitude, and at no cost where nothing waits
        self._records.release()  # what a save under way may still be reading changes now
        self._undo = None
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.sparsifier.method.due(run.step + 1, run.total_steps):
            self._check_weights()
        update = run.sparsifier.step()
        if update is not None:
            self._record_update(
                Updated(update=update, density=run.sparsifier.density, exploration_rate=run.sparsifier.exploration_rate)
            )
        if run.world.first and self._pace.due():
            self._tell_progress(rate)

    def _check_finite(self) -> None:
        """Raises TrainingError for a loss that is not finite. Waits for the device."""
        sums = self.run.sums
        self.run.world.check_masks(self.run.sparsifier.masks)
        if sums.examples:
            self._check_loss(float(sums.loss) / sums.examples, "the loss")

    def _check_loss(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            error = TrainingError(
                f"{what} is not finite",
                where=f"step {self.run.step}, epoch {self.run.epochs_done + 1}",
                got=loss,
                remedy=f"the last good checkpoint, {self.folder.last}, is intact; lower the learning rate, lengthen "
                "the warm-up or train in fp32",
            )
            error.everywhere = True  # all ranks have the same sums
            raise error

    def _check_weights(self) -> None:
        """Raises TrainingError for weights that are not finite, which a finite loss can leave behind."""
        weights = [parameter.detach() for parameter in self.run.model.parameters() if parameter.numel()]
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(weights, math.inf)]).amax()
        self._check_loss(float(largest), "the largest weight")

    def _record_update(self, event: Updated) -> None:
        self._records.update(event.update)
        totals = {"pruned": 0, "dropped": 0, "grown": 0}
        for counts in event.update.counts.values():
            for change in totals:
                totals[change] += counts[change]
        entry: dict[str, Any] = {
            "step": event.update.step,
            "density": event.density,
            **totals,
            "exploration_rate": event.exploration_rate,
        }
        if event.update.note:
            entry["note"] = event.update.note
        self.run.metrics["updates"].append(entry)
        layers = {name: counts["active"] for name, counts in event.update.counts.items()}
        self._records.line({"event": "update", **entry, "layers": layers})
        self.watch(event)
        self.run.world.agree("masks", self._masks)

    def _tell_progress(self, rate: float) -> None:
        run = self.run
        loss, accuracy = run.sums.means()
        self._check_loss(loss, "the loss")
        steps_per_second = self._pace.tell(run.step)
        left = run.total_steps - run.step
        self.watch(
            Progressed(
                step=run.step,
                epoch=run.epochs_done + 1,
                loss=loss,
                accuracy=accuracy,
                density=run.sparsifier.density,
                learning_rate=rate,
                images_per_second=steps_per_second * run.recipe.training.batch_size,
                seconds_left=left / steps_per_second,
            )
        )

    def _end_epoch(self) -> None:
        """Validates, keeps the best, saves."""
        run = self.run
        self._check_finite()
        epoch = run.epochs_done + 1
        run.world.agree("weights", lambda: fingerprints.of_weights(run.model))
        loss, accuracy = run.sums.means()
        result = self._evaluate("validation")
        self._check_loss(result.loss, "the validation loss")
        settled = run.sparsifier.method.settled(run.step, run.total_steps)
        leader = run.metrics.get("best", {"accuracy": -1.0})
        best = settled and result.accuracy > leader["accuracy"]
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": run.step,
            "loss": loss,
            "accuracy": accuracy,
            "validation_loss": result.loss,
            "validation_accuracy": result.accuracy,
            "density": run.sparsifier.density,
            "learning_rate": learning_rate(run.recipe, run.step - 1, run.pipeline.steps_per_epoch),
        }
        run.metrics["epochs"].append(entry)
        if best:
            run.metrics["best"] = {"epoch": epoch, "step": run.step, "accuracy": result.accuracy, "loss": result.loss}
        run.sums = EpochSums.zero(run.device)
        state = capture(run)
        steps_per_second = self._pace.steps_per_second(run.step)
        speed = steps_per_second and steps_per_second * run.recipe.training.batch_size
        self._records.line({"event": "epoch", **entry, "best": best, "images_per_second": speed})
        self._save(state, best=best)
        self.watch(EpochEnded(**entry, images_per_second=speed, best=best))

    def _test(self) -> Evaluation:
        """Meets the test set with the best checkpoint, once in the life of the run."""
        run = self.run
        self._records.close()
        if "test" not in run.metrics:
            best = shared(run.world, self._records.best)
            assert best is not None  # noqa: S101  training has ended, and the last epoch at least can be the best
            models.load_weights(run.model, best.weights, best.buffers)
            result = self._evaluate("test")
            run.metrics["test"] = {
                "epoch": run.metrics["best"]["epoch"],
                "accuracy": result.accuracy,
                "loss": result.loss,
                "examples": result.examples,
            }
            self._records.line({"event": "test", "step": run.step, **run.metrics["test"]})
            self._records.tested(run.metrics["test"])
        test = run.metrics["test"]
        self.watch(Tested(**test))
        return Evaluation(test["loss"], test["accuracy"], test["examples"])

    def _evaluate(self, split: str) -> Evaluation:
        run = self.run
        run.world.same_buffers(run.model)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in run.pipeline.evaluation(split, EVALUATED):
                yield self._laid_out(images), labels

        # Never compiled: `granet eval` computes the same numbers, and odd batches would each be compiled anew.
        rounds = run.world.ranks.rounds(-(-len(run.dataset.split(split)) // EVALUATED))
        return evaluate(run.model, batches(), precision=run.precision, stop=self.stop, world=run.world, rounds=rounds)

    def _masks(self) -> Mapping[str, str]:
        return fingerprints.of_masks(self.run.sparsifier.masks)

    def _check_ranks(self) -> None:
        """Raises TrainingError on every rank when they do not go on from the same masks and weights."""
        self.run.world.agree("masks", self._masks)
        self.run.world.agree("weights", lambda: fingerprints.of_weights(self.run.model))

    def _images(self) -> Tensor:
        """Blank images, as many as this rank computes at a time."""
        run, settings = self.run, self.run.recipe.training
        count, side = settings.batch_size // run.world.ranks.size // settings.accumulate, run.dataset.image_size
        return self._laid_out(torch.zeros(max(count, 1), run.dataset.channels, side, side, device=run.device))

    def _way_back(self) -> Callable[[], None]:
        """What takes back that which a step changes before it is through: buffers and sums."""
        run = self.run
        buffers = [(buffer, buffer.detach().clone()) for buffer in run.model.buffers()]
        sums = EpochSums(run.sums.loss.clone(), run.sums.correct.clone(), run.sums.examples)

        def undo() -> None:
            run.sums = sums
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

        return undo

    def _laid_out(self, images: Tensor) -> Tensor:
        """Channels last on a GPU, as its convolutions want it and as the weights are."""
        return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images

    def _save(self, state: checkpoint.Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """Begins to save ``state`` as the last one; and as the best, and as one to keep, where that is wanted."""
        self._check_finite()  # a state that went wrong must not replace a good one
        self._check_weights()
        self._records.save(state, best=best, keep=keep)
        self._saved_at = self.run.step
        self.watch(Saved(path=self.folder.last, step=self.run.step))


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
        notes=weights.notes(run.metrics) if run.step == 0 else (),
    )
