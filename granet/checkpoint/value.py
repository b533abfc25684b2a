"""The value of a checkpoint: all that resuming, inspecting and exporting need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

import torch
from torch import Tensor

from granet.checkpoint.canonical import short
from granet.errors import CheckpointError
from granet.recipe import Recipe

Slot = Tensor | float | int | bool | None
"""State of an optimizer for one parameter, such as a momentum buffer or a step count."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network the weights belong to and what it expects; enough to build it again.

    ``name`` is one that ``granet.models.build`` understands, ``image_size`` in pixels, ``mean`` and ``std`` per
    channel of images in [0, 1].
    """

    name: str
    in_channels: int
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """What ``granet.models.build`` needs besides the name: ``in_channels``, ``classes`` and ``image_size``."""
        return {"in_channels": self.in_channels, "classes": len(self.classes), "image_size": self.image_size}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state of a run after ``step`` optimizer steps.

    Tensors are keyed by the names of ``named_parameters()`` and ``named_buffers()``; tied parameters appear once,
    under their first name. The order of ``weights`` and ``buffers`` is kept by files.

    Attributes:
        weights: every parameter in its full shape; zero wherever its mask is False.
        masks: which weights are active, bool, for the parameters that are masked; True means active.
        buffers: the persistent buffers, such as the running statistics of batch norms.
        explored: for each mask, the union of the active sets there have been, the present one included.
        optimizer: parameter name -> slot -> value. A tensor shaped like a masked parameter (0-d apart) is masked
            with it.
        accumulators: for masked parameters, what growth gathers from dense gradients; empty for most methods.
        recipe: the whole of the run as data.
        step: optimizer steps done.
        network: the network.
        progress: the position in the data and partial sums, as JSON.
        metrics: what was measured so far, as JSON.
        extra_state: what else the network needs to compute the same: by keys of ``state_dict`` such as
            ``"norm._extra_state"`` what ``get_extra_state`` of modules returns, see ``granet.checkpoint.extra_state``;
            and by their names the buffers outside the state dict that training changed.
        stored_hash: the content hash of the file that the value was decoded from; ``dataclasses.replace`` drops it.

    Raises:
        CheckpointError: parts that contradict one another.
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    buffers: dict[str, Tensor]
    explored: dict[str, Tensor]
    optimizer: dict[str, dict[str, Slot]]
    accumulators: dict[str, Tensor]
    recipe: Recipe
    step: int
    network: Network
    progress: dict[str, Any]
    metrics: dict[str, Any]
    extra_state: dict[str, Any] = field(default_factory=dict)
    stored_hash: InitVar[str | None] = None

    def __post_init__(self, stored_hash: str | None) -> None:
        object.__setattr__(self, "_content_hash", stored_hash)
        check_names(vars(self))
        for name in sorted(self.masks.keys() - self.explored.keys()):
            raise CheckpointError("masks for a name that is not among the explored", where=name)
        for part, tensors in (("masks", self.masks), ("explored", self.explored), ("accumulators", self.accumulators)):
            for name, tensor in tensors.items():
                if tensor.shape != self.weights[name].shape:
                    raise CheckpointError(
                        "the shape is not that of the weight",
                        where=f"{part} of {name}",
                        got=tuple(tensor.shape),
                        expected=tuple(self.weights[name].shape),
                    )
                if part != "accumulators" and tensor.dtype != torch.bool:
                    raise CheckpointError("not a bool tensor", where=f"{part} of {name}", got=tensor.dtype)

    @property
    def content_hash(self) -> str:
        """The content hash of the file this was loaded from: 64 hexadecimal digits, the same for equal values.

        Raises:
            CheckpointError: the value was not loaded from a file.
        """
        content_hash: str | None = self.__dict__["_content_hash"]
        if content_hash is None:
            raise CheckpointError("a checkpoint that was not loaded from a file has no content hash")
        return content_hash


_WITHIN = {"masks": "weights", "optimizer": "weights", "accumulators": "masks", "explored": "masks"}
"""Part of a checkpoint -> the part that has all of its names."""


def check_names(parts: Mapping[str, Any], *, where: str = "") -> None:
    """Check the names in the parts of a checkpoint against one another; ``where`` is the file, for messages.

    Raises:
        CheckpointError: a part of a parameter that is not there, or a weight and a buffer of the same name.
    """
    faults = [
        (f"{part} for a name that is not among the {whole}", {*parts[part]} - {*parts[whole]})
        for part, whole in _WITHIN.items()
    ]
    faults.append(("a weight and a buffer have the same name", {*parts["weights"]} & {*parts["buffers"]}))
    for fault, names in faults:
        for name in sorted(names):
            raise CheckpointError(fault, where=f"{where}, {short(name)}" if where else name)
