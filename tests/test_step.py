"""Half a step can be taken back, and a whole one cannot."""

from __future__ import annotations

import copy

import pytest
import torch

from granet.recipe import Recipe
from granet.training.run import Run, begin, open_data
from granet.training.step import TrainingStep

BATCH = 16


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose rank is the one that saves when another is lost."""
    recipe = Recipe.load("quickstart")
    run = begin(recipe, open_data(recipe), torch.device("cpu"))
    monkeypatch.setattr(run.world, "undoes_lost_steps", True)
    return run


def changing(run: Run) -> object:
    """What the first half of a step changes, and the weights, which it does not."""
    return copy.deepcopy((dict(run.model.named_buffers()), vars(run.sums), dict(run.model.named_parameters())))


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_first_half_leaves_weights_alone_and_can_be_taken_back(run: Run) -> None:
    step, before = TrainingStep(run), changing(run)
    step.backward(*(part[:BATCH] for part in next(iter(run.pipeline.batches(0)))))
    assert run.sums.examples == BATCH
    assert not same(changing(run), before)
    step.undo()
    assert run.sums.examples == 0
    assert same(changing(run), before)


def test_what_the_optimizer_has_done_is_not_taken_back_in_part(run: Run) -> None:
    step, before = TrainingStep(run), changing(run)
    step.backward(*(part[:BATCH] for part in next(iter(run.pipeline.batches(0)))))
    step.optimize()
    done = changing(run)
    assert not same(done, before)
    step.undo()
    assert same(changing(run), done)
