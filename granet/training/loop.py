"""Training, from the present step to the end.

``train`` drives a ``Run`` as a sequence that only the step and the metrics decide: finish the epoch that is due,
train on to the next boundary, and at the end meet the test set once. Stopping at any point and starting again
therefore needs no memory of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from granet import checkpoint, models
from granet.data import Dataset
from granet.errors import DataError, Interrupted, TrainingError
from granet.randomness import key
from granet.recipe import Recipe
from granet.training.compiling import compiled
from granet.training.device import describe_device, reading_waits, seed, use_kernels
from granet.training.evaluate import Evaluation, autocast, evaluate
from granet.training.events import EpochEnded, Event, Progressed, Saved, Started, Tested, Updated
from granet.training.folder import RunFolder
from granet.training.history import History
from granet.training.learning_rate import learning_rate
from granet.training.pace import Pace
from granet.training.retention import Retention
from granet.training.rewinding.start import rewound
from granet.training.saving import Saver
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
        watch: told of every event.
        stop: asked before the first step and after every one; True ends the run with the state saved.

    Returns:
        How the best epoch does on the test set.

    Raises:
        Interrupted: ``stop`` said so; the state is saved.
        TrainingError: the loss is not finite; checkpoints written before are intact.
        UsageError: settings that do not fit, or a folder that holds a run.
        DataError, ModelError, CheckpointError: see ``open_data`` and ``state.begin``.
    """
    folder.check_free(overwrite=overwrite)
    use_kernels(deterministic=recipe.training.deterministic)
    run = begin(recipe, open_data(recipe, download=download) if dataset is None else dataset, device)
    _rewind(run)
    with folder.claimed():
        folder.check_free(overwrite=overwrite)  # once more: somebody else may have begun here in the meantime
        folder.create(recipe)
        watch(_started(run, folder))
        return Trainer(run, folder, watch, stop).finish()


def resume(
    folder: RunFolder,
    device: torch.device,
    *,
    directory: Path | None = None,
    dataset: Dataset | None = None,
    watch: Watch = _nobody,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Goes on with the run in ``folder`` as if it had never stopped.

    Args:
        folder: holds the run.
        device: where to compute; bit-identical to never having stopped on the same kind of device only.
        directory: where the data are now, when they moved.
        dataset: that of the run, where it is open already.
        watch, stop: as for ``train``.

    Returns:
        How the best epoch does on the test set.

    Raises:
        CheckpointError: a damaged checkpoint, or data that are not those of the run.
        Otherwise as ``train``.
    """
    folder.check_run()  # before claiming it, which would make the folder
    with folder.claimed():
        recipe, state = folder.open()
        use_kernels(deterministic=recipe.training.deterministic)
        run = begin(recipe, open_data(recipe, directory=directory) if dataset is None else dataset, device)
        return _go_on(run, state, folder, watch, stop)


def _go_on(
    run: Run, state: checkpoint.Checkpoint | None, folder: RunFolder, watch: Watch, stop: Callable[[], bool]
) -> Evaluation:
    if state is not None:
        restore(run, state)
    else:
        _rewind(run)
    folder.rewind_metrics(step=run.step, epochs=run.epochs_done, tested="test" in run.metrics)
    kept = folder.kept_steps()
    if run.step in kept:
        folder.forget(Retention.of(run.recipe, run.pipeline.steps_per_epoch).obsolete(kept, run.step))
    watch(_started(run, folder))
    return Trainer(run, folder, watch, stop, saved=state is not None).finish()


def _rewind(run: Run) -> None:
    """Puts a run that starts from a checkpoint where it starts; any other is there already."""
    if run.recipe.rewind is not None:
        restore(run, rewound(run))


class Trainer:
    """Drives one run; see the module."""

    def __init__(
        self, run: Run, folder: RunFolder, watch: Watch, stop: Callable[[], bool], *, saved: bool = False
    ) -> None:
        self.run, self.folder, self.watch, self.stop = run, folder, watch, stop
        self._forward = compiled(run.model) if run.recipe.training.compile else run.model
        self._loss = nn.CrossEntropyLoss(label_smoothing=run.recipe.training.label_smoothing)
        self._saved_at = run.step if saved else None
        self._saver = Saver(run.device)
        self._retention = Retention.of(run.recipe, run.pipeline.steps_per_epoch)
        self._history = History.of(folder.history, run, begun=saved)
        self._pace = Pace()

    def finish(self) -> Evaluation:
        """Goes on from wherever the run stands to its end."""
        try:
            return self._finish()
        finally:
            self._saver.close()

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
        except (Interrupted, DataError) as reason:
            # A signal to the whole job ends the workers too: what they fail with then is only the stop itself.
            if isinstance(reason, DataError) and not self.stop():
                raise
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
        seed(run.device, key(run.recipe.seed, "forward", run.step))
        run.optimizer.zero_grad(set_to_none=True)
        parts = run.recipe.training.accumulate
        for part, answers in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with autocast(run.device, run.precision):
                logits = self._forward(part)
                loss = self._loss(logits, answers)
            run.scaler.scale(loss * (len(answers) / len(labels))).backward()
            correct = (logits.detach().argmax(1) == answers).sum()
            run.sums.add(loss.detach().double() * len(answers), correct, len(answers))
        if not reading_waits(run.device) or run.sparsifier.method.due(run.step + 1, run.total_steps):
            self._check_finite()  # before anything is selected by magnitude, and at no cost where nothing waits
        self._saver.release()  # what a save under way may still be reading changes now
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.sparsifier.method.due(run.step + 1, run.total_steps):
            self._check_weights()
        update = run.sparsifier.step()
        if update is not None:
            self._record_update(
                Updated(update=update, density=run.sparsifier.density, exploration_rate=run.sparsifier.exploration_rate)
            )
        if self._pace.due():
            self._tell_progress(rate)

    def _check_finite(self) -> None:
        """Raises TrainingError for a loss that is not finite. Waits for the device."""
        sums = self.run.sums
        if sums.examples:
            self._check_loss(float(sums.loss) / sums.examples, "the loss")

    def _check_loss(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{what} is not finite",
                where=f"step {self.run.step}, epoch {self.run.epochs_done + 1}",
                got=loss,
                remedy=f"the last good checkpoint, {self.folder.last}, is intact; lower the learning rate, lengthen "
                "the warm-up or train in fp32",
            )

    def _check_weights(self) -> None:
        """Raises TrainingError for weights that are not finite, which a finite loss can leave behind."""
        weights = [parameter.detach() for parameter in self.run.model.parameters() if parameter.numel()]
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(weights, math.inf)]).amax()
        self._check_loss(float(largest), "the largest weight")

    def _record_update(self, event: Updated) -> None:
        self._history.add(event.update)
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
        self.folder.append_metrics({"event": "update", **entry, "layers": layers})
        self.watch(event)

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
        self.folder.append_metrics({"event": "epoch", **entry, "best": best, "images_per_second": speed})
        self._save(state, *([self.folder.best] if best else []))
        self.watch(EpochEnded(**entry, images_per_second=speed, best=best))

    def _test(self) -> Evaluation:
        """Meets the test set with the best checkpoint, once in the life of the run."""
        run = self.run
        self._saver.close()
        if "test" not in run.metrics:
            best = checkpoint.load(self.folder.best)
            models.load_weights(run.model, best.weights, best.buffers)
            result = self._evaluate("test")
            last = checkpoint.load(self.folder.last)
            run.metrics["test"] = {
                "epoch": run.metrics["best"]["epoch"],
                "accuracy": result.accuracy,
                "loss": result.loss,
                "examples": result.examples,
            }
            self.folder.append_metrics({"event": "test", "step": run.step, **run.metrics["test"]})
            last.metrics["test"] = run.metrics["test"]
            checkpoint.save(self.folder.last, last)
        test = run.metrics["test"]
        self.watch(Tested(**test))
        return Evaluation(test["loss"], test["accuracy"], test["examples"])

    def _evaluate(self, split: str) -> Evaluation:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in self.run.pipeline.evaluation(split):
                yield self._laid_out(images), labels

        # Never compiled: `granet eval` computes the same numbers, and odd batches would each be compiled anew.
        return evaluate(self.run.model, batches(), precision=self.run.precision, stop=self.stop)

    def _laid_out(self, images: Tensor) -> Tensor:
        """Channels last on a GPU, as its convolutions want it and as the weights are."""
        return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images

    def _save(self, state: checkpoint.Checkpoint, *paths: Path, keep: bool = True) -> None:
        """Begins to save ``state`` to ``paths`` and as the last one; and as one to keep, where that is wanted."""
        self._check_finite()  # a state that went wrong must not replace a good one
        self._check_weights()
        self._saver.close()  # before looking at what is there
        step, kept = self.run.step, self.folder.kept_steps()
        obsolete: list[Path] = []
        if keep and self._retention.keeps(step):
            paths = (*paths, self.folder.kept(step))
            obsolete = [self.folder.kept(old) for old in self._retention.obsolete(kept, step)]
        self._history.sync()  # it never lacks what a checkpoint has seen
        self._saver.submit(state, (*paths, self.folder.last), obsolete=obsolete)
        self._saved_at = step
        self.watch(Saved(path=self.folder.last, step=self.run.step))


def _started(run: Run, folder: RunFolder) -> Started:
    return Started(
        folder=folder.path,
        device=describe_device(run.device),
        on_gpu=run.device.type == "cuda",
        precision=run.precision,
        step=run.step,
        total_steps=run.total_steps,
        steps_per_epoch=run.pipeline.steps_per_epoch,
        epochs=run.epochs,
        parameters=sum(mask.numel() for mask in run.sparsifier.masks.values()),
        density=run.sparsifier.density,
        examples=split_sizes(run.dataset),
    )
