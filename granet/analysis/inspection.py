"""A checkpoint inspected: active weights by layer, what they cost, which run made it and at which step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from granet import flops
from granet.analysis.json_values import json_value
from granet.errors import GranetError, ModelError
from granet.flops.matrices import find_matrices
from granet.layers import mask_effect
from granet.layers.axes import WeightAxes
from granet.layers.maskable import MASKABLE
from granet.masks import mapping
from granet.models import build, check_confirmed, is_factory, outline
from granet.runs.lineage import ancestors

if TYPE_CHECKING:
    from granet.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One masked weight."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    """Weights, active or not."""
    active: int
    density: float
    """Active over parameters, 0 to 1."""
    explored: float
    """Share of the weights that have been active at any time, 0 to 1."""
    inputs: int
    """Input channels or features of the layer."""
    outputs: int
    dead_inputs: int
    """Inputs without an active weight in this layer, which have no influence on it."""
    dead_outputs: int
    """Outputs without an active weight in this layer: they are constant."""
    flops_share: float | None
    """Share of the network's active inference FLOPs, 0 to 1; None when the network could not be rebuilt."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that ``granet inspect`` shows."""

    recipe: str
    """Name of its recipe."""
    method: str
    model: str
    data: str
    seed: int
    step: int
    """Optimizer steps done."""
    total_steps: int | None
    """Optimizer steps of the whole run; None when the checkpoint does not say."""
    epoch: float | None
    """Epochs done, with their fraction; None when the checkpoint does not say."""
    epochs: int
    """Epochs of the whole run."""
    best_validation_accuracy: float | None
    """Of the best epoch at the final density, 0 to 1; None before there is one."""
    test_accuracy: float | None
    """0 to 1; None before the end of the run."""
    metrics: Mapping[str, Any]
    """Of the run so far."""
    rewind: Mapping[str, Any] | None
    """The recipe's section ``rewind``; None for a run that was not rewound."""
    lineage: tuple[Mapping[str, Any], ...]
    """The checkpoints that the weights come from, the oldest first, as ``granet.runs.lineage`` writes them."""
    imported: str | None
    """The foreign file that the weights were imported from, and the source of the masks; None when nothing was."""

    parameters: int
    """Maskable weights: those of the layers below."""
    active: int
    density: float
    """Active over parameters, 0 to 1."""
    exploration: float
    """Exploration rate R_s of 2102.02887: share of the maskable weights that have ever been active, 0 to 1."""
    total_parameters: int
    """All parameters, those that no mask covers (biases, norms, layers kept dense) included."""
    flops: Mapping[str, float] | None
    """``dense`` and ``active`` inference FLOPs of one image; None when the network could not be rebuilt."""
    layers: tuple[LayerReport, ...]
    """Masked weights in the order of the network."""
    notes: tuple[str, ...]
    """What is unknown, and why; matrices and products that no mask covers."""

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries, sequences and numbers."""
        document: dict[str, Any] = json_value(self)
        return document


def inspect(checkpoint: Checkpoint, *, factory: str | None = None) -> Inspection:
    """Return counts, dead channels and costs of a checkpoint.

    Counts need the masks alone. Costs, and the groups of grouped convolutions, need the network, which is rebuilt
    from its name. If that fails, a note says what is missing and why.

    Progress is read from ``total_steps`` and ``steps_per_epoch`` of ``checkpoint.progress`` and from ``best``, ``test``
    and ``imported`` of ``checkpoint.metrics``; what is not there is None in the report.

    Args:
        checkpoint: what ``granet.load_checkpoint`` returns.
        factory: when the network is the user's own, ``package.module:factory``, that name again. Rebuilding it runs
            code, and a file does not decide which.
    """
    notes: list[str] = []
    network = costs = None
    try:
        network = rebuild(checkpoint, factory)
        size = checkpoint.network.image_size
        shape = (checkpoint.network.in_channels, size, size)
        notes.extend(find_matrices(network, shape).notes(checkpoint.masks))
        costs = flops.layers(network, shape)
    except GranetError as error:
        notes.append(f"FLOPs are unknown. {error}")
        if network is None and any(mask.ndim > 2 for mask in checkpoint.masks.values()):
            notes.append("Dead inputs and outputs are counted as if no convolution were grouped or transposed")

    totals = shares = None
    if costs is not None:
        densities = {name: mapping.density({name: mask}) for name, mask in checkpoint.masks.items()}
        active_costs = {name: cost * densities.get(name, 1.0) for name, cost in costs.items()}
        totals = {"dense": sum(costs.values()), "active": sum(active_costs.values())}
        notes.extend(flops.notes(costs, totals["active"]))
        shares = {name: cost and cost / totals["active"] for name, cost in active_costs.items()}

    axes = _axes(network) if network is not None else {}
    layers = tuple(
        _layer(
            name,
            checkpoint.masks[name],
            checkpoint.explored[name],
            axes.get(name, WeightAxes()),
            None if shares is None else shares.get(name, 0.0),
        )
        for name in _in_order(checkpoint.masks, network)
    )
    if network is not None:
        notes += (
            note[0].upper() + note[1:]
            for note in mask_effect.remarks(network, [x.name for x in layers if x.density < 1])
        )
    recipe = checkpoint.recipe
    total_steps = number_at(checkpoint.progress, "total_steps")
    steps_per_epoch = number_at(checkpoint.progress, "steps_per_epoch")
    return Inspection(
        recipe=recipe.name,
        method=recipe.method.name,
        model=checkpoint.network.name,
        data=recipe.data.name,
        seed=recipe.seed,
        step=checkpoint.step,
        total_steps=None if total_steps is None else int(total_steps),
        epoch=checkpoint.step / steps_per_epoch if steps_per_epoch else None,
        epochs=math.ceil(total_steps / steps_per_epoch) if total_steps and steps_per_epoch else recipe.training.epochs,
        best_validation_accuracy=number_at(checkpoint.metrics, "best", "accuracy"),
        test_accuracy=number_at(checkpoint.metrics, "test", "accuracy"),
        metrics=checkpoint.metrics,
        rewind=None if recipe.rewind is None else recipe.rewind.model_dump(mode="json", exclude_none=True),
        lineage=tuple(ancestors(checkpoint.metrics)),
        imported=_origin(checkpoint.metrics),
        parameters=mapping.size(checkpoint.masks),
        active=sum(layer.active for layer in layers),
        density=mapping.density(checkpoint.masks),
        exploration=mapping.density(checkpoint.explored),
        total_parameters=sum(weight.numel() for weight in checkpoint.weights.values()),
        flops=totals,
        layers=layers,
        notes=tuple(notes),
    )


def _layer(name: str, mask: Tensor, explored: Tensor, axes: WeightAxes, share: float | None) -> LayerReport:
    inputs, outputs = channels_in_use(mask, axes)
    return LayerReport(
        name=name,
        shape=tuple(mask.shape),
        parameters=mask.numel(),
        active=int(mask.sum()),
        density=mapping.density({name: mask}),
        explored=mapping.density({name: explored}),
        inputs=inputs.numel(),
        outputs=outputs.numel(),
        dead_inputs=int((~inputs).sum()),
        dead_outputs=int((~outputs).sum()),
        flops_share=share,
    )


def channels_in_use(mask: Tensor, axes: WeightAxes) -> tuple[Tensor, Tensor]:
    """Return which inputs and which outputs have an active weight: bool [inputs], bool [outputs].

    Args:
        mask: bool, of the shape of a convolution's or linear layer's weight.
        axes: what its first two dimensions mean.
    """
    links = axes.links(mask)
    return links.any(1).flatten(), links.any(2).flatten()


def _axes(network: nn.Module) -> dict[str, WeightAxes]:
    """Return the axes of the weight of every convolution and linear layer, by its name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    layers = (module for module in network.modules() if isinstance(module, MASKABLE))
    return {names[id(weight)]: WeightAxes.of(module) for module in layers if id(weight := module.weight) in names}


def rebuild(checkpoint: Checkpoint, factory: str | None) -> nn.Module:
    """Build the network of ``checkpoint`` without its weights; ``factory`` as for ``inspect``.

    Raises:
        GranetError: it cannot be built, would run unconfirmed code, or now has other parameters.
    """
    facts = checkpoint.network
    check_confirmed(facts.name, factory)
    # Sizes in the file could ask for any amount of memory: an outline takes none. A factory may need real tensors.
    construct = build if is_factory(facts.name) else outline
    network = construct(facts.name, **facts.sizes)
    now = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    then = {name: tuple(weight.shape) for name, weight in checkpoint.weights.items()}
    for name in {**then, **now}:
        if now.get(name) != then.get(name):
            raise ModelError(
                f"the network that this name builds now differs in {name!r}",
                where=facts.name,
                got=now.get(name, "no such parameter"),
                expected=then.get(name, "no such parameter"),
            )
    return network


def _in_order(found: mapping.Masks, network: nn.Module | None) -> list[str]:
    """Return the names of masks in the order of the network's parameters, or as they are without a network."""
    if network is None:
        return list(found)
    return [name for name, _ in network.named_parameters() if name in found]


def number_at(document: object, *path: str) -> float | None:
    """Return the number at ``path`` in an untrusted JSON document; None where there is no number below 2**53."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    if isinstance(document, bool) or not isinstance(document, int | float):
        return None
    return document if abs(document) < 2**53 else None


def newest_validation_accuracy(metrics: Mapping[str, Any]) -> float | None:
    """Return the validation accuracy of the last finished epoch in untrusted metrics; None where there is none."""
    epochs = metrics.get("epochs")
    return number_at(epochs[-1], "validation_accuracy") if isinstance(epochs, list) and epochs else None


def _origin(metrics: object) -> str | None:
    """Format the note that ``granet.importing`` writes; None where there is none."""
    note = metrics.get("imported") if isinstance(metrics, dict) else None
    if not isinstance(note, dict):
        return None
    return f"{note.get('file')}; masks: {note.get('source')}"
