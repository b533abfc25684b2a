"""Granularity: units are chosen in place of weights, and only the sparsifier knows; scope: among what they compete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import granet
from granet.allocation import Shapes, uniform
from granet.errors import UnknownNameError
from granet.masks.mapping import Masks, active
from granet.masks.selection import Tensors
from granet.methods import GMP, METHODS, GMPUniform, GraNet, GraNetUniform, Method
from granet.methods.granularity import GRANULARITIES, SingleWeights
from granet.methods.settings import fixed
from granet.methods.snapshot import Snapshot
from granet.methods.update import draw_masks, update_topology
from granet.topology import TopologyUpdate

SHAPES = {"conv": (8, 3, 3, 3), "fc": (10, 8)}


class Rows:
    """All weights of an output at once: as short as a granularity is."""

    description = "all weights of an output"

    def units(self, shapes: Shapes) -> Shapes:
        return {name: (shape[0], *(1 for _ in shape[1:])) for name, shape in shapes.items()}

    def coarsen(self, weights: Snapshot) -> Snapshot:
        scores = [self._sums(tensors) for tensors in (weights.weights, weights.gradients, weights.momenta)]
        masks = {name: mask.any(tuple(range(1, mask.dim())), keepdim=True) for name, mask in weights.masks.items()}
        return replace(weights, weights=scores[0], gradients=scores[1], momenta=scores[2], masks=masks)

    def refine(self, units: Masks, scores: Tensors) -> Masks:
        return {name: unit.expand(scores[name].shape).contiguous() for name, unit in units.items()}

    def _sums(self, tensors: Tensors) -> dict[str, Tensor]:
        return {name: tensor.abs().sum(tuple(range(1, tensor.dim())), keepdim=True) for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class RowGraNet(GraNet):
    """GraNet of whole rows."""

    granularity: str = fixed("row")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(GRANULARITIES, "row", Rows())  # type: ignore[arg-type]
    return


def whole_rows(masks: Masks) -> dict[str, int]:
    """The active rows of each layer, all of which are active as a whole."""
    counts = {}
    for name, mask in masks.items():
        flat = mask.reshape(mask.shape[0], -1)
        assert torch.equal(flat.any(1), flat.all(1))
        counts[name] = int(flat.any(1).sum())
    return counts


@pytest.mark.parametrize("growth", ["gradient", "momentum", "random"])
@pytest.mark.parametrize("scope", ["network", "layer"])
def test_any_method_works_on_units_of_another_granularity(rows: None, growth: str, scope: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = RowGraNet(density=0.3, initial_density=0.6, interval=2, end=8, growth=growth, scope=scope)
    sparsifier = granet.Sparsifier(model, optimizer, method, total_steps=12)
    assert sum(whole_rows(sparsifier.masks).values()) == round(0.6 * 18)
    updates: list[TopologyUpdate] = []
    for step in range(1, 13):
        model(torch.randn(4, 3, 3, 3)).square().mean().backward()
        optimizer.step()
        update = sparsifier.step()
        optimizer.zero_grad()
        if update is not None:
            updates.append(update)
            assert whole_rows(update.pruned) == whole_rows(update.masks) or method.swaps(step, 12)
            assert sum(whole_rows(update.masks).values()) == round(method.scheduled_density(step, 12) * 18)
        for name, parameter in model.named_parameters():
            if name in sparsifier.masks:
                assert not parameter[~sparsifier.masks[name]].any()
    assert any(sum(counts["grown"] for counts in update.counts.values()) for update in updates)


def test_single_weights_are_the_identity_without_a_copy() -> None:
    weights, same = {"fc": torch.randn(4, 3)}, SingleWeights()
    masks = draw_masks(METHODS["static"](density=0.5), {"fc": (4, 3)}, seed=0)  # type: ignore[call-arg]
    snapshot = Snapshot(step=1, total_steps=2, weights=weights, gradients={}, momenta={}, masks=masks, seed=0)
    assert same.coarsen(snapshot) is snapshot
    assert same.refine(masks, weights) is masks
    assert same.units(SHAPES) is SHAPES


def test_only_known_granularities_are_taken() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown granularity 'channel'\. There are: weight"):
        GMP(density=0.1, granularity="channel")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (GraNet(density=0.1, scope="layer"), GraNetUniform(density=0.1)),
        (GraNet(density=0.1, initial_density=0.5, scope="layer"), GraNetUniform(density=0.1, initial_density=0.5)),
        (GMP(density=0.3, scope="layer"), GMPUniform(density=0.3, first_dense=False, classifier_density=0)),
    ],
)
def test_uniform_methods_are_those_whose_weights_compete_in_their_layer(one: Method, other: Method) -> None:
    assert one.budgets(SHAPES) == other.budgets(SHAPES)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    masks = draw_masks(one, SHAPES, seed=0)
    snapshot = Snapshot(
        step=1000, total_steps=4000, weights=weights, gradients=weights, momenta={}, masks=masks, seed=0
    )
    updates = [update_topology(method, snapshot) for method in (one, other)]
    assert updates[0].pruned == updates[1].pruned
    assert updates[0].masks == updates[1].masks
    density = one.scheduled_density(1000, 4000)  # type: ignore[attr-defined]
    assert active(updates[0].pruned) == uniform(SHAPES, density)


def test_settings_that_are_fixed_are_not_for_choosing() -> None:
    with pytest.raises(TypeError, match="scope"):
        GraNetUniform(density=0.1, scope="network")  # type: ignore[call-arg]
