"""The training loop, from the present step to the end.

``Trainer`` drives a ``Run`` as a sequence that only the step and the metrics decide: train to the end of the epoch,
validate, save, and after the last epoch evaluate the best one on the test set, once. Stopping at any point and
starting again therefore needs no memory of its own. One step is ``granet.training.step``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from granet import checkpoint, models
from granet.data.pipeline import EVALUATED
from granet.errors import DataError, Interrupted, LostRankError, TrainingError
from granet.recipe.learning_rate import learning_rate
from granet.runs.events import EpochEnded, Progressed, Saved, Tested, Updated, Watch
from granet.runs.folder import RunFolder
from granet.topology import TopologyUpdate
from granet.training.device import reading_waits
from granet.training.distributed import fingerprints
from granet.training.evaluate import Evaluation, evaluate
from granet.training.run import EpochSums, Run, capture
from granet.training.run_writer import RunWriter
from granet.training.step import TrainingStep

PROGRESS_SECONDS = 0.5
"""Seconds between two reports of progress. A report waits for the device, so it is rare."""


class Trainer:
    """Trains one run to its end; see the module."""

    def __init__(
        self, run: Run, folder: RunFolder, watch: Watch, stop: Callable[[], bool], *, saved: bool = False
    ) -> None:
        """Prepare to train ``run`` from its present step. Every rank creates one.

        Args:
            run: with its weights in place.
            folder: claimed by this process, or by that of rank 0.
            watch, stop: see ``granet.training.train``.
            saved: whether the last checkpoint in ``folder`` is of this very state.

        Raises:
            TrainingError: the ranks do not have the same masks and weights.
            ModelError: several ranks cannot train this network together.
        """
        self.run, self.folder, self.watch = run, folder, watch
        self._asked_here, self.stop = stop, run.world.stop_on_all(stop)
        run.world.check_equal("masks", lambda: fingerprints.of_masks(run.sparsifier.masks))
        run.world.check_equal("weights", lambda: fingerprints.of_weights(run.model))
        self._training_step = TrainingStep(run)
        self._saved_at = run.step if saved else None
        self._writer = RunWriter(folder, run, saved=saved) if run.world.is_rank_zero else None
        self._throughput = Throughput()

    def finish(self) -> Evaluation:
        """Train to the end; return loss and accuracy of the best epoch on the test set.

        Raises:
            Interrupted: ``stop`` returned True; the state is saved.
            TrainingError: the loss or a weight is not finite, or the ranks differ; checkpoints written before are
                intact.
            LostRankError: another rank is gone.
            DataError, ModelError, CheckpointError: images that cannot be read, a network that cannot be compiled, or a
                best checkpoint that was damaged.
        """
        run = self.run
        try:
            if self._saved_at is None:
                self._save(capture(run))
            self._raise_if_stopped()
            while run.epochs_done < run.epochs:
                boundary = min((run.epochs_done + 1) * run.pipeline.steps_per_epoch, run.total_steps)
                if run.step < boundary:
                    self._train_to(boundary)
                self._end_epoch()
            return self._test()
        except (Interrupted, DataError, LostRankError) as reason:
            # A signal to the whole job ends the workers too, and the other ranks: what they fail with then is only
            # the stop itself. A step that they cut short has not changed the weights, and is undone.
            if not isinstance(reason, Interrupted) and not self._asked_here():
                if isinstance(reason, DataError):
                    raise self._with_what_is_saved(reason) from reason
                raise
            if isinstance(reason, LostRankError):
                self._training_step.undo()
            if self._saved_at != run.step:
                self._save(capture(run), keep=False)
            if isinstance(reason, Interrupted):
                raise
            raise self._interrupted() from reason
        finally:
            self._close()

    def _with_what_is_saved(self, error: DataError) -> DataError:
        """Return the error with what is saved, and what to do to go on."""
        run, where = self.run, f"the run in {self.folder.path}"
        told = (
            f"training is done and saved, and --resume finishes {where}"
            if run.epochs_done >= run.epochs
            else f"step {self._saved_at} of {run.total_steps} is saved, and --resume goes on with {where}"
        )
        remedy = f"put a sound file there: {told}" if error.remedy is None else f"{error.remedy}; {told}"
        again = DataError(error.what, where=error.where, got=error.got, expected=error.expected, remedy=remedy)
        again.everywhere = error.everywhere
        return again

    def _close(self) -> None:
        """Wait until everything is on disk; raise the error of a save that failed."""
        if self._writer is not None:
            self._writer.checkpoints.close()

    def _train_to(self, boundary: int) -> None:
        run = self.run
        epoch, position = divmod(run.step, run.pipeline.steps_per_epoch)
        run.model.train()
        self._throughput.restart(run.step)
        for images, labels in run.pipeline.batches(epoch, start=position):
            self._step(images, labels)
            if run.step < boundary and run.retention.due(run.step):
                self._save(capture(run))
            self._raise_if_stopped()
            if run.step == boundary:  # the last epoch may be cut short
                break

    def _raise_if_stopped(self) -> None:
        if self.stop():
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted("stopped", where=f"step {self.run.step} of {self.run.total_steps}")

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """Take one training step, and report the change of topology and the progress."""
        run = self.run
        update_due = run.sparsifier.method.due(run.step + 1, run.total_steps)
        self._training_step.backward(images, labels)
        if update_due or not reading_waits(run.device):
            self._check_finite()  # before weights are ranked, and at no cost where reading does not wait
        if self._writer is not None:
            self._writer.checkpoints.release()  # a save under way may still be reading what changes now
        self._training_step.optimize()
        if update_due:
            self._check_weights()
        update = self._training_step.update_topology()
        if update is not None:
            self._record_update(update)
        if run.world.is_rank_zero and self._throughput.report_due():
            self._report_progress()

    def _learning_rate(self) -> float:
        """The learning rate of the last step."""
        return learning_rate(self.run.recipe, self.run.step - 1, self.run.pipeline.steps_per_epoch)

    def _check_finite(self) -> None:
        """Raise TrainingError if the loss is not finite. Waits for the device."""
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
        """Raise TrainingError if a weight is not finite, which can follow from a finite loss."""
        weights = [parameter.detach() for parameter in self.run.model.parameters() if parameter.numel()]
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(weights, math.inf)]).amax()
        self._check_loss(float(largest), "the largest weight")

    def _record_update(self, update: TopologyUpdate) -> None:
        run = self.run
        totals = {
            change: sum(counts[change] for counts in update.counts.values())
            for change in ("pruned", "dropped", "grown")
        }
        entry: dict[str, Any] = {
            "step": update.step,
            "density": run.sparsifier.density,
            **totals,
            "exploration_rate": run.sparsifier.exploration_rate,
        }
        if update.note:
            entry["note"] = update.note
        run.metrics["updates"].append(entry)
        if self._writer is not None:
            self._writer.update(update, entry)
        self.watch(Updated(update=update, density=entry["density"], exploration_rate=entry["exploration_rate"]))
        run.world.check_equal("masks", lambda: fingerprints.of_masks(run.sparsifier.masks))

    def _report_progress(self) -> None:
        run = self.run
        loss, accuracy = run.sums.means()
        self._check_loss(loss, "the loss")
        steps_per_second = self._throughput.steps_per_second(run.step) or 0.0
        self.watch(
            Progressed(
                step=run.step,
                epoch=run.epochs_done + 1,
                loss=loss,
                accuracy=accuracy,
                density=run.sparsifier.density,
                learning_rate=self._learning_rate(),
                images_per_second=steps_per_second * run.recipe.training.batch_size,
                seconds_left=(run.total_steps - run.step) / steps_per_second,
            )
        )

    def _end_epoch(self) -> None:
        """Validate, note the best epoch, save."""
        run = self.run
        self._check_finite()
        epoch = run.epochs_done + 1
        run.world.check_equal("weights", lambda: fingerprints.of_weights(run.model))
        run.world.check_equal("extra state of modules", lambda: fingerprints.of_extra_state(run.model))
        loss, accuracy = run.sums.means()
        result = self._evaluate("validation")
        self._check_loss(result.loss, "the validation loss")
        reached = run.sparsifier.method.reached_final_density(run.step, run.total_steps)
        leader = run.metrics.get("best", {"accuracy": -1.0})
        best = reached and result.accuracy > leader["accuracy"]
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": run.step,
            "loss": loss,
            "accuracy": accuracy,
            "validation_loss": result.loss,
            "validation_accuracy": result.accuracy,
            "density": run.sparsifier.density,
            "learning_rate": self._learning_rate(),
        }
        run.metrics["epochs"].append(entry)
        if best:
            run.metrics["best"] = {"epoch": epoch, "step": run.step, "accuracy": result.accuracy, "loss": result.loss}
        run.sums = EpochSums.zero(run.device)
        state = capture(run)
        steps_per_second = self._throughput.steps_per_second(run.step)
        speed = steps_per_second and steps_per_second * run.recipe.training.batch_size
        if self._writer is not None:
            self._writer.line({"event": "epoch", **entry, "best": best, "images_per_second": speed})
        self._save(state, best=best)
        self.watch(EpochEnded(**entry, images_per_second=speed, best=best))

    def _test(self) -> Evaluation:
        """Evaluate the best checkpoint on the test set, once in the life of the run."""
        run = self.run
        self._close()
        if "test" not in run.metrics:
            best = run.world.checkpoint_from_rank_zero(lambda: checkpoint.load(self.folder.best))
            assert best is not None  # noqa: S101  training has ended, and the last epoch at least can be the best
            models.load_weights(run.model, best.weights, best.buffers, best.extra_state)
            result = self._evaluate("test")
            run.metrics["test"] = {
                "epoch": run.metrics["best"]["epoch"],
                "accuracy": result.accuracy,
                "loss": result.loss,
                "examples": result.examples,
            }
            if self._writer is not None:
                self._writer.tested(run.step, run.metrics["test"])
        test = run.metrics["test"]
        self.watch(Tested(**test))
        return Evaluation(test["loss"], test["accuracy"], test["examples"])

    def _evaluate(self, split: str) -> Evaluation:
        run = self.run
        run.world.broadcast_buffers(run.model)
        # Never compiled: `granet eval` computes the same numbers, and odd batches would each be compiled anew.
        batches = run.pipeline.evaluation(split, EVALUATED)
        rounds = run.world.ranks.rounds(-(-len(run.dataset.split(split)) // EVALUATED))
        return evaluate(
            run.model,
            batches,
            precision=run.precision,
            memory_format=run.memory_format,
            stop=self.stop,
            world=run.world,
            rounds=rounds,
        )

    def _save(self, state: checkpoint.Checkpoint, *, best: bool = False, keep: bool = True) -> None:
        """Begin to save ``state`` as the last checkpoint, and as the best and as one to keep where asked for."""
        self._check_finite()  # a state that went wrong must not replace a good one
        self._check_weights()
        if self._writer is not None:
            self._writer.save(state, best=best, keep=keep)
        self._saved_at = self.run.step
        self.watch(Saved(path=self.folder.last, step=self.run.step))


class Throughput:
    """Steps a second of one stretch of training, without the evaluations and saves between stretches."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._since = self._reported = 0.0

    def restart(self, step: int) -> None:
        """Begin a stretch after ``step`` steps."""
        self._step = step
        self._since = self._reported = time.monotonic()

    def report_due(self) -> bool:
        """Return whether the last report is ``PROGRESS_SECONDS`` ago, and if so count this one as made."""
        due = time.monotonic() - self._reported >= PROGRESS_SECONDS
        if due:
            self._reported = time.monotonic()
        return due

    def steps_per_second(self, step: int) -> float | None:
        """Return the steps a second since the stretch began; None when there was none."""
        if self._step is None or step == self._step:
            return None
        return (step - self._step) / max(time.monotonic() - self._since, 1e-9)
