"""The public functions reproduce what the GraNet authors' code did, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from granet import allocation, schedules
from granet.methods import RigLITOP
from granet.methods.snapshot import Snapshot
from granet.topology import TopologyUpdate, prune_to, swap

RUNS = ["granet", "granet-from-dense", "gmp", "rigl-itop"]


def part(tensors: dict[str, torch.Tensor], event: int, stage: str, field: str) -> dict[str, torch.Tensor]:
    prefix = f"event{event:02d}/{stage}/{field}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n].bool()) for n in ours)


@pytest.mark.parametrize("run", RUNS)
def test_prune_and_swap_match(golden: Path, run: str) -> None:
    record = json.loads((golden / f"{run}.json").read_text())
    tensors = load_file(golden / f"{run}.safetensors")
    prunes = swaps = 0
    for number, event in enumerate(record["events"]):
        before = {n: m.bool() for n, m in part(tensors, number, "prune", "mask_before").items()}
        if before:
            pruned = prune_to(part(tensors, number, "prune", "weight"), before, event["prune_active_after"])
            assert equal(pruned, part(tensors, number, "prune", "mask_after"))
            prunes += 1
        before = {n: m.bool() for n, m in part(tensors, number, "swap", "mask_before").items()}
        if before:
            weight = part(tensors, number, "swap", "weight")
            after = swap(weight, part(tensors, number, "swap", "gradient"), before, event["swap_count"])
            assert equal(after, part(tensors, number, "swap", "mask_after"))
            survivors = TopologyUpdate(0, before, before, after).survivors
            for name, momentum in part(tensors, number, "swap", "momentum").items():
                assert torch.equal(weight[name] * survivors[name], part(tensors, number, "swap", "weight_after")[name])
                assert torch.equal(momentum * survivors[name], part(tensors, number, "swap", "momentum_after")[name])
            swaps += 1
    assert prunes + swaps >= len(record["events"])


def test_drop_counts_match(golden: Path) -> None:
    record = json.loads((golden / "rigl-itop.json").read_text())
    tensors = load_file(golden / "rigl-itop.safetensors")
    method = RigLITOP(density=0.2, interval=record["update_interval"])
    for number, event in enumerate(record["events"]):
        masks = {n: m.bool() for n, m in part(tensors, number, "swap", "mask_before").items()}
        at = Snapshot(step=event["step"], total_steps=24, weights={}, gradients={}, momenta={}, masks=masks, seed=0)
        assert method.swap_counts(masks, at) == event["swap_count"]


def test_drop_fractions_match(golden: Path) -> None:
    record = json.loads((golden / "granet.json").read_text())
    for step, fraction in enumerate(record["drop_fraction_by_step"], start=1):
        assert schedules.cosine(step, record["steps"], 0.5, 0.005) == pytest.approx(fraction, rel=1e-12)


def test_erk_densities_match(golden: Path) -> None:
    for network in json.loads((golden / "erk.json").read_text()).values():
        shapes = {str(number): shape for number, shape in enumerate(network["shapes"])}
        for density, expected in network["densities"].items():
            densities = allocation.erk_densities(shapes, float(density))
            assert list(densities.values()) == pytest.approx(expected, rel=1e-12)
            weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
            budgets = allocation.erk(shapes, float(density))
            assert sum(budgets.values()) == round(float(density) * sum(w.numel() for w in weights.values()))
