"""Training on several ranks: what comes out is what one would have made, however often it stopped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from granet.checkpoint import load
from granet.data import make_pipeline
from granet.data.ranks import Ranks
from granet.errors import Interrupted, UsageError
from granet.masks.packed import PackedMasks
from granet.methods import METHODS
from granet.recipe import Recipe
from granet.runs import events as told
from granet.training import RunFolder, open_data, resume, train
from granet.training.distributed import World, ddp, fingerprints
from granet.training.distributed.agreement import MaskChecksum
from granet.training.distributed.batch_norm import sync_batch_norms
from granet.training.distributed.fingerprints import of_masks
from granet.training.trainer import Trainer
from tests.ranks_at_work import CPU, Failed, at_work, done
from tests.synthetic import arrays_dataset, write_image_folder
from tests.tiny import tiny

SETTINGS: dict[str, str] = {
    "granet": 'density = 0.2\ninterval = "4it"\nend = "9it"',
    "granet-uniform": 'density = 0.2\ninitial_density = 0.6\ninterval = "4it"\nend = "9it"',
    "rigl": 'density = 0.3\ninterval = "4it"',
    "rigl-itop": 'density = 0.3\ninterval = "4it"\ngrowth = "momentum"',
    "set": 'density = 0.3\ninterval = "4it"',
    "snfs": 'density = 0.3\ninterval = "4it"',
    "gmp": 'density = 0.2\ninterval = "4it"\nend = "9it"',
    "gmp-uniform": 'density = 0.4\ninterval = "4it"\nend = "9it"\nfirst_dense = false',
    "static": "density = 0.3",
    "dense": "",
}
STEPS_PER_EPOCH, EPOCHS = 6, 2
TOTAL = STEPS_PER_EPOCH * EPOCHS


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)


@pytest.fixture
def recipe(images: Path) -> Callable[..., Recipe]:
    def make(method: str = "granet", **settings: object) -> Recipe:
        training = f"epochs = {EPOCHS}\nbatch_size = 12"
        return tiny(images, method, SETTINGS[method], training=training).override(settings)

    return make


Facts = Mapping[str, str]
Array = np.ndarray[Any, np.dtype[np.float64]]


def training(world: World, recipes: Mapping[str, Recipe], folder: Path) -> dict[str, dict[int, Facts]]:
    """Trains each of ``recipes``; by its name and step, the masks of this rank after every update."""
    seen: dict[str, dict[int, Facts]] = {}
    for name, recipe in recipes.items():
        masks: dict[int, Facts] = {}

        def watch(event: told.Event, masks: dict[int, Facts] = masks) -> None:
            if isinstance(event, told.Updated):
                masks[event.update.step] = of_masks(event.update.masks)

        result = train(recipe, RunFolder(folder / name), CPU, world=world, watch=watch)
        seen[name] = masks | {0: {"result": str(result)}}
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the times in metrics.jsonl."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".jsonl"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_masks_are_equal_on_all_ranks_at_every_update(size: int, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    by_rank = done(at_work(size, training, {method: recipe(method) for method in METHODS}, tmp_path))
    assert all(seen == by_rank[0] for seen in by_rank)
    for method, masks in by_rank[0].items():
        last = load(tmp_path / method / "last.safetensors")
        updates = [entry["step"] for entry in last.metrics["updates"]]
        assert updates == [step for step in masks if step]
        assert bool(updates) == (method not in ("static", "dense"))
        if updates:
            assert of_masks(last.masks) == masks[updates[-1]]


def differences(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference between weights, and between losses, of the ends of two runs with equal masks."""
    mine, theirs = load(one / "last.safetensors"), load(other / "last.safetensors")
    assert mine.masks.keys() == theirs.masks.keys()
    assert all(torch.equal(mask, theirs.masks[name]) for name, mask in mine.masks.items())
    weights = max(float((weight - theirs.weights[name]).abs().max()) for name, weight in mine.weights.items())
    losses = zip(mine.metrics["epochs"], theirs.metrics["epochs"], strict=True)
    return weights, max(
        abs(a["loss"] - b["loss"]) + abs(a["validation_loss"] - b["validation_loss"]) for a, b in losses
    )


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_match_a_single_process_with_the_whole_batch(
    size: int, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """With batch norms over all ranks; without them, a single rank that computes the batch in as many parts."""
    settings = {"optimizer.momentum": 0.0, "training.label_smoothing": 0.1}
    synced = {"granet": recipe("granet", **settings, **{"training.sync_batch_norm": True})}
    plain = recipe("rigl", **settings)
    train(replace_accumulate(plain, size), RunFolder(tmp_path / "one" / "rigl"), CPU)
    for name, given in synced.items():
        train(given, RunFolder(tmp_path / "one" / name), CPU)
    done(at_work(size, training, {**synced, "rigl": plain}, tmp_path / "ranks"))
    for name in (*synced, "rigl"):
        one, ranks = tmp_path / "one" / name, tmp_path / "ranks" / name
        if name == "rigl":  # its running statistics are those of rank 0's share, so evaluations differ
            assert differences(one, ranks)[0] < 2e-5
        else:
            assert max(differences(one, ranks)) < 2e-5
            buffers, theirs = (load(folder / "last.safetensors").buffers for folder in (one, ranks))
            assert all(torch.allclose(buffer, theirs[key], atol=1e-5) for key, buffer in buffers.items())


def replace_accumulate(recipe: Recipe, parts: int) -> Recipe:
    return recipe.override({"training.accumulate": parts})


def in_stretches(world: World, folder: Path, asks: list[int], recipe: Recipe) -> list[int]:
    """Trains, again and again stopped because the last rank was asked to, at its nth answer; at which steps it was."""
    runs, steps = RunFolder(folder), []
    for number, asked in enumerate(asks):
        answers = iter([False] * (asked if world.ranks.rank == world.ranks.size - 1 else 1000))
        try:
            if number == 0:
                train(recipe, runs, CPU, world=world, stop=lambda answers=answers: next(answers, True))
            else:
                resume(runs, CPU, world=world, stop=lambda answers=answers: next(answers, True))
        except Interrupted as stopped:
            steps.append(int(str(stopped.where).split()[1]))
    resume(runs, CPU, world=world)
    return steps


@pytest.mark.parametrize("size", [2, 4])
def test_stopping_any_rank_anywhere_leaves_no_trace(size: int, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    if size == 2:
        given = {"granet": recipe("granet", **{"training.accumulate": 3})}
    else:
        given = {"snfs": recipe("snfs", **{"training.sync_batch_norm": True})}
    done(at_work(size, training, given, tmp_path / "undisturbed"))
    for name, one in given.items():
        steps = done(at_work(size, in_stretches, tmp_path / name, [1, 1, 1, 1, 2], one))
        assert steps[0] == steps[-1] == [2, 4, 6, 7, 10]  # in an epoch, at an update, before the end of an epoch
        assert contents(tmp_path / name) == contents(tmp_path / "undisturbed" / name)


def first_gradients(world: World, settled: bool) -> list[bool]:
    """Whether the gradients of the first two steps of a network are the same bits, all else being equal."""
    torch.manual_seed(0)
    # Gradients come in another order than the parameters have, so that the buckets are going to be filled anew.
    network = Crossed()
    images = torch.randn(4, 8, generator=torch.Generator().manual_seed(world.ranks.rank))
    if not settled:
        ddp.settle_buckets = lambda *_: None
    reduced = world.data_parallel(network, lambda: images, lambda: torch.autocast("cpu", enabled=False), compile=False)
    found = []
    for _ in range(2):
        network.zero_grad()
        with world.gradient_sync(reduced, last=True):
            reduced(images).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    return [torch.equal(a, b) for a, b in zip(*found, strict=True)]


class Crossed(nn.Module):
    """Applies its layers in the opposite order to that in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 37), *(nn.Linear(37, 37) for _ in range(5)), nn.Linear(37, 8)][::-1])

    def forward(self, images: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            images = layer(images).tanh() if layer is not self.layers[0] else layer(images)
        return images


def test_the_first_step_of_a_process_rounds_like_later_ones() -> None:
    """And it would not, without the pass that settles the buckets: on four ranks; on two there is only one order."""
    assert all(all(same) for same in done(at_work(4, first_gradients, True)))
    assert not all(all(same) for same in done(at_work(4, first_gradients, False)))


def normalising(world: World, images: Array, momentum: float | None) -> list[Array]:
    """Output, gradients and running statistics of batch norms in float64 over this rank's share of ``images``."""
    share = torch.from_numpy(images[world.ranks.share(len(images))].copy()).requires_grad_()
    layers = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Tanh(), nn.BatchNorm2d(3, momentum=momentum))
    network = layers.double().train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.linspace(0.5, 1.5, 3))
    names = list(network.state_dict())
    synced = world.sync_batch_norms(network)
    assert list(synced.state_dict()) == names
    for _ in range(2):
        synced.zero_grad()
        share.grad = None
        output = synced(share)
        output.pow(3).sum().backward()
    gradients = [parameter.grad for parameter in synced.parameters()]
    buffers = [buffer.double() for buffer in synced.buffers()]
    synced.eval()
    found = [output, share.grad, *gradients, *buffers, synced(share)]
    return [tensor.detach().numpy() for tensor in found if tensor is not None]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_ranks_is_that_of_the_whole_batch(momentum: float | None) -> None:
    images = np.random.default_rng(0).normal(1, 3, (8, 3, 2, 5))
    [whole] = done(at_work(1, normalising, images, momentum))
    parts = done(at_work(4, normalising, images, momentum))
    for place, expected in enumerate(whole):
        mine = [part[place] for part in parts]
        if place in (0, 1) or place == len(whole) - 1:  # by image
            got = np.concatenate(mine)
        elif 2 <= place < 6:  # gradients of scale and shift, of which each rank has its part
            got = np.sum(mine, axis=0)
        else:
            got = mine[0]
        assert np.allclose(got, expected, rtol=1e-12, atol=1e-12), place


def test_shared_batch_norms_stay_shared() -> None:
    norm = nn.BatchNorm1d(2)
    network = sync_batch_norms(nn.Sequential(norm, nn.Linear(2, 2), norm), None, CPU)  # type: ignore[arg-type]
    assert network[0] is network[2]  # type: ignore[index]
    assert network[0].weight is norm.weight  # type: ignore[index]


@pytest.mark.parametrize("streaming", [False, True])
def test_ranks_together_get_the_batches_of_a_single_process(
    streaming: bool, images: Path, recipe: Callable[..., Recipe]
) -> None:
    residency = "streaming" if streaming else "resident"
    dataset = open_data(recipe(**{"data.residency": residency, "data.image_size": 8}))

    def batches(ranks: Ranks, *, evaluated: bool) -> list[tuple[Tensor, Tensor]]:
        pipeline = make_pipeline(dataset, batch_size=12, device=CPU, seed=3, augment="crop-flip", ranks=ranks)
        return list(pipeline.evaluation("test", 10) if evaluated else pipeline.batches(1, start=2))

    whole = batches(Ranks(), evaluated=False)
    parts = [batches(Ranks(rank, 3), evaluated=False) for rank in range(3)]
    for step, (expected, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), expected)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)

    whole = batches(Ranks(), evaluated=True)
    dealt = [batches(Ranks(rank, 4), evaluated=True) for rank in range(4)]
    assert sum(map(len, dealt)) == len(whole) == 9
    for number, (expected, labels) in enumerate(whole):
        assert torch.equal(dealt[number % 4][number // 4][0], expected)
        assert torch.equal(dealt[number % 4][number // 4][1], labels)


def flip_one_bit(run: Any, name: str) -> None:
    place = run.sparsifier.masks.layout[name]
    run.sparsifier.masks.bits[place.start] ^= 1


def with_planted(world: World, what: str, recipe: Recipe, folder: Path) -> int:
    """Trains with something else on the last rank than on the others; how many steps that rank came, if any."""
    odd = world.ranks.rank == world.ranks.size - 1
    done_steps = 0
    original = Trainer._step

    def step(trainer: Any, images: Tensor, labels: Tensor) -> None:
        nonlocal done_steps
        if odd and what == "mask between updates" and trainer.run.step == 5:
            flip_one_bit(trainer.run, "layer1.0.conv1.weight")
        if odd and what == "mask at an update" and trainer.run.step == 3:
            adopt = trainer.run.sparsifier._adopt

            def other(masks: Any, survivors: Any = None) -> None:
                adopt(masks, survivors)
                flip_one_bit(trainer.run, "layer1.0.conv1.weight")

            trainer.run.sparsifier._adopt = other
        if odd and what == "weight" and trainer.run.step == 2:
            with torch.no_grad():
                trainer.run.model.conv1.weight.view(-1)[0] += 1
        original(trainer, images, labels)
        done_steps = trainer.run.step

    Trainer._step = step  # type: ignore[method-assign]
    dataset = None
    if odd and what == "software":
        other = SimpleNamespace(python_version=lambda: "3.99", machine=lambda: "x")
        fingerprints.platform = other  # type: ignore[assignment]
    if odd and what == "recipe":
        recipe = recipe.override({"optimizer.learning_rate": 0.02})
    if what in ("pixel", "label"):
        dataset = arrays_dataset(train=72)
        if odd and what == "pixel":
            dataset.train.images[7, 0, 0, 0] ^= 1  # type: ignore[union-attr]
        if odd and what == "label":
            dataset.train.labels[6] = 2 - dataset.train.labels[6]
    try:
        train(recipe, RunFolder(folder), CPU, dataset=dataset, world=world)
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "everywhere", False), done_steps]  # type: ignore[return-value]
    raise AssertionError("nobody noticed")


PLANTED = {
    "mask between updates": (5, r"differ in their masks; got .* on rank 1; expected|layer1.0.conv1.weight"),
    "mask at an update": (3, r"layer1.0.conv1.weight: the ranks differ in their masks"),
    "weight": (STEPS_PER_EPOCH, r"conv1.weight.*: the ranks differ in their weights"),
    "software": (0, r"Python and 1 more: the ranks differ in their software; got 3.99 on rank"),
    "recipe": (0, r"optimizer.learning_rate: the ranks differ in their recipe; got 0.02 on rank"),
    "pixel": (0, r"train image 7: the ranks differ in their data; got label 1, "),
    "label": (0, r"train image 6: the ranks differ in their data; got label 2, "),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_difference_is_caught_before_the_next_step(
    what: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    steps, message = PLANTED[what]
    results = done(at_work(3, with_planted, what, recipe("granet"), tmp_path / "run"))
    for kind, text, everywhere, steps_done in results:
        assert steps_done == steps
        assert everywhere
        assert kind == {
            "software": "UsageError",
            "recipe": "UsageError",
            "pixel": "DataError",
            "label": "DataError",
        }.get(what, "TrainingError")
        assert "rank 2" in text
        assert "ranks 0 and 1" in text
        assert re.search(message, text), text
    assert (tmp_path / "run").exists() == (steps > 0)


class Idle(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.used(images.flatten(1))
        return logits


def wrapping(world: World) -> None:
    world.data_parallel(Idle(), lambda: torch.zeros(2, 8), lambda: torch.autocast("cpu", enabled=False), compile=False)


def test_a_parameter_that_the_logits_do_not_depend_on_is_named() -> None:
    for failed in at_work(2, wrapping):
        assert isinstance(failed, Failed)
        assert (failed.kind, failed.everywhere) == ("ModelError", True)
        assert "idle.weight and 1 more: the logits do not depend on" in failed.message


def refused(world: World, recipe: Recipe, folder: Path) -> list[Any]:
    try:
        train(recipe, RunFolder(folder), CPU, world=world)
    except UsageError as error:
        return [str(error), error.everywhere]
    raise AssertionError("it was not refused")


def test_a_batch_that_cannot_be_divided_is_refused_before_anything_is_written(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for message, everywhere in done(at_work(2, refused, recipe(**{"training.batch_size": 13}), tmp_path / "run")):
        assert everywhere
        assert "training.batch_size: the batch cannot be divided among the ranks" in message
        assert "Choose 12 or 14" in message
    assert not (tmp_path / "run").exists()


def test_ranks_do_not_overwrite_a_run_but_a_restart_resumes_it(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    given = recipe()
    train(given, RunFolder(tmp_path), CPU)
    before = contents(tmp_path)
    for message, everywhere in done(at_work(2, refused, given, tmp_path)):
        assert everywhere
        assert "already holds a run" in message
    again = World()
    again.restarted = True
    result = train(given, RunFolder(tmp_path), CPU, world=again)
    assert result.examples == 81
    assert contents(tmp_path) == before
    with pytest.raises(UsageError, match="already holds a run"):
        train(given.override({"seed": 1}), RunFolder(tmp_path), CPU, world=again)


def dropping(world: World, recipe: Recipe, folder: Path) -> float:
    drawn: list[Tensor] = []
    original = Trainer._step

    def step(trainer: Any, images: Tensor, labels: Tensor) -> None:
        original(trainer, images, labels)
        drawn.append(torch.rand(4))

    Trainer._step = step  # type: ignore[method-assign]
    train(recipe, RunFolder(folder), CPU, world=world)
    return float(torch.stack(drawn).sum())


def test_random_draws_differ_between_ranks_and_rank_zero_draws_like_a_single_process(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    [alone] = done(at_work(1, dropping, recipe("static"), tmp_path / "alone"))
    first, second = done(at_work(2, dropping, recipe("static"), tmp_path / "two"))
    assert first == alone
    assert second != first


def test_a_checksum_sees_every_weight_that_moves() -> None:
    masks = PackedMasks({}, torch.zeros(70, dtype=torch.uint8))
    checksum = MaskChecksum()
    seen = [int(checksum.of(masks))]
    for place in range(len(masks.bits)):
        for bit in range(8):
            masks.bits[place] = 1 << bit
            seen.append(int(checksum.of(masks)))
        masks.bits[place] = 0
    assert len(set(seen)) == len(seen)
    assert all(0 <= number < 2**52 for number in seen)


def lost_within_a_step(world: World, recipe: Recipe, folder: Path, at: int) -> None:
    """The last rank goes within step ``at`` + 1, and the others are told to stop, as by torchrun, just then."""
    told_to_stop = folder.with_suffix(".lost")
    original = Trainer._step

    def step(trainer: Any, images: Tensor, labels: Tensor) -> None:
        if trainer.run.step == at and world.ranks.rank == world.ranks.size - 1:

            def gone(*_: object) -> None:
                told_to_stop.touch()
                os._exit(1)

            world.sum_metrics = gone  # type: ignore[method-assign,assignment]
        original(trainer, images, labels)

    Trainer._step = step  # type: ignore[method-assign]
    train(recipe, RunFolder(folder), CPU, world=world, stop=told_to_stop.exists)


def test_a_step_cut_short_by_the_loss_of_a_rank_is_undone_and_the_state_saved(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    done(at_work(2, training, {"whole": recipe()}, tmp_path))
    stopped, lost = at_work(2, lost_within_a_step, recipe(), tmp_path / "lost", 4)
    assert lost is None
    assert (stopped.kind, stopped.message) == ("Interrupted", f"step 4 of {TOTAL}: stopped")
    assert load(tmp_path / "lost" / "last.safetensors").step == 4
    done(at_work(2, in_stretches, tmp_path / "lost", [], recipe()))
    assert contents(tmp_path / "lost") == contents(tmp_path / "whole")


def test_a_rank_that_loses_another_says_so(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    failed, lost = at_work(2, dying, recipe(), tmp_path / "run")
    assert lost is None
    assert (failed.kind, failed.everywhere) == ("LostRankError", False)
    assert "lost contact with another rank" in failed.message


def dying(world: World, recipe: Recipe, folder: Path) -> None:
    def gone() -> bool:
        os._exit(1)

    train(recipe, RunFolder(folder), CPU, world=world, stop=gone if world.ranks.rank else lambda: False)


def test_a_loss_that_is_not_finite_ends_all_ranks_with_one_error(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    given = recipe(**{"optimizer.learning_rate": 1000.0, "optimizer.weight_decay": 1000.0})
    for failed in at_work(2, training, {"run": given}, tmp_path):
        assert isinstance(failed, Failed)
        assert (failed.kind, failed.everywhere) == ("TrainingError", True)
        assert "is not finite" in failed.message
    load(tmp_path / "run" / "last.safetensors")
