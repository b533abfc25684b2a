"""The training step: its learning rate, and undoing a backward pass that no optimizer step followed."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch

from granet.recipe import Recipe
from granet.recipe.learning_rate import learning_rate
from granet.training.run import Run, begin, open_data
from granet.training.step import TrainingStep

BATCH = 16


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run on the rank that saves when another is lost."""
    recipe = Recipe.load("quickstart")
    run = begin(recipe, open_data(recipe), torch.device("cpu"))
    monkeypatch.setattr(run.world, "undoes_lost_steps", True)
    return run


def changing(run: Run) -> object:
    """Return copies of what ``backward`` changes, and of the weights, which it does not change."""
    return copy.deepcopy((dict(run.model.named_buffers()), vars(run.sums), dict(run.model.named_parameters())))


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_backward_leaves_weights_unchanged_and_can_be_undone(run: Run) -> None:
    step, before = TrainingStep(run), changing(run)
    step.backward(*(part[:BATCH] for part in next(iter(run.pipeline.batches(0)))))
    assert run.sums.examples == BATCH
    assert not same(changing(run), before)
    step.undo()
    assert run.sums.examples == 0
    assert same(changing(run), before)


def test_a_step_is_not_undone_once_the_optimizer_has_stepped(run: Run) -> None:
    step, before = TrainingStep(run), changing(run)
    step.backward(*(part[:BATCH] for part in next(iter(run.pipeline.batches(0)))))
    step.optimize()
    done = changing(run)
    assert not same(done, before)
    step.undo()
    assert same(changing(run), done)


def test_a_step_has_the_learning_rate_of_the_schedule_and_counts(run: Run) -> None:
    step, seen = TrainingStep(run), []
    for images, labels in islice(run.pipeline.batches(0), 2):
        expected = learning_rate(run.recipe, run.step, run.pipeline.steps_per_epoch)
        step(images[:BATCH], labels[:BATCH])
        seen.append(run.optimizer.param_groups[0]["lr"])
        assert seen[-1] == expected
    assert run.step == 2
    assert seen[0] != seen[1]
