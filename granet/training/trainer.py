"""Training, from the present step to the end.

``Trainer`` drives a ``Run`` as a sequence that only the step and the metrics decide: finish the epoch that is due,
train on to the next boundary, and at the end meet the test set once. Stopping at any point and starting again
therefore needs no memory of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from granet import checkpoint, models
from granet.data.pipeline import EVALUATED
from granet.errors import DataError, Interrupted, LostRankError, TrainingError
from granet.runs.events import EpochEnded, Progressed, Saved, Tested, Updated, Watch
from granet.runs.folder import RunFolder
from granet.runs.retention import Retention
from granet.training.device import reading_waits
from granet.training.distributed import fingerprints
from granet.training.distributed.broadcast import shared
from granet.training.evaluate import Evaluation, evaluate
from granet.training.learning_rate import learning_rate
from granet.training.run import EpochSums, Run, capture
from granet.training.run_writer import Records, Written
from granet.training.step import Steps, images_laid_out
from granet.training.throughput import Pace


class Trainer:
    """Drives one run; see the module."""

    def __init__(
        self, run: Run, folder: RunFolder, watch: Watch, stop: Callable[[], bool], *, saved: bool = False
    ) -> None:
        """For a run that stands where it goes on from; each of several ranks makes one.

        Args:
            run: with its weights in place.
            folder: where it goes; claimed by this process, or by that of rank 0.
            watch: told of every event.
            stop: asked before the first step and after every one; True ends the run with the state saved.
            saved: whether the last checkpoint in ``folder`` is of this very state.

        Raises:
            TrainingError: the ranks do not go on from the same masks and weights.
            ModelError: several ranks cannot train this network together.
        """
        self.run, self.folder, self.watch = run, folder, watch
        self._asked, self.stop = stop, run.world.polled(stop)
        self._check_ranks()
        self._steps = Steps(run)
        self._saved_at = run.step if saved else None
        self._retention = Retention.of(run.recipe, run.pipeline.steps_per_epoch)
        self._records = Written(folder, run, begun=saved) if run.world.first else Records()
        self._pace = Pace()

    def finish(self) -> Evaluation:
        """Goes on from wherever the run stands to its end.

        Returns:
            How the best epoch does on the test set.

        Raises:
            Interrupted: ``stop`` said so; the state is saved.
            TrainingError: the loss or a weight is not finite, or the ranks differ; checkpoints written before are
                intact.
            LostRankError: another rank is gone.
            DataError, ModelError, CheckpointError: images that cannot be read, a network that cannot be compiled, or a
                best checkpoint that was damaged.
        """
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
            if isinstance(reason, LostRankError):
                self._steps.undo()
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
        self._steps.backward(images_laid_out(images), labels)
        if not reading_waits(run.device) or run.sparsifier.method.due(run.step + 1, run.total_steps):
            self._check_finite()  # before anything is selected by magnitude, and at no cost where nothing waits
        self._records.release()  # what a save under way may still be reading changes now
        self._steps.optimize()
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
        self._records.update(event.update)  # a thread goes on with it, and with Python, while the next step computes
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
                yield images_laid_out(images), labels

        # Never compiled: `granet eval` computes the same numbers, and odd batches would each be compiled anew.
        rounds = run.world.ranks.rounds(-(-len(run.dataset.split(split)) // EVALUATED))
        return evaluate(run.model, batches(), precision=run.precision, stop=self.stop, world=run.world, rounds=rounds)

    def _masks(self) -> Mapping[str, str]:
        return fingerprints.of_masks(self.run.sparsifier.masks)

    def _check_ranks(self) -> None:
        """Raises TrainingError on every rank when they do not go on from the same masks and weights."""
        self.run.world.agree("masks", self._masks)
        self.run.world.agree("weights", lambda: fingerprints.of_weights(self.run.model))

    def _save(self, state: checkpoint.Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """Begins to save ``state`` as the last one; and as the best, and as one to keep, where that is wanted."""
        self._check_finite()  # a state that went wrong must not replace a good one
        self._check_weights()
        self._records.save(state, best=best, keep=keep)
        self._saved_at = self.run.step
        self.watch(Saved(path=self.folder.last, step=self.run.step))
