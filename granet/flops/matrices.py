"""Matrices: the parameters of two and more dimensions that a network multiplies activations by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from granet.errors import ModelError, counted, listing
from granet.flops.forward_pass import count_products
from granet.layers.maskable import layer_weights

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """The matrices of a network.

    Attributes:
        sizes: the number of weights of each by name of the parameter: those of layers first, whether a pass uses them
            or not, then those that a pass multiplies by elsewhere.
        bare: those of no layer that can be masked. A pass multiplies by them as they are, not by what it computes from
            them, and they are trained.
        unknown: parameters that may be matrices, of a network whose pass cannot be followed.
    """

    sizes: Mapping[str, int]
    bare: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def outside(self, masked: Collection[str]) -> dict[str, int]:
        """Return the matrices that are not among the masked parameters, and their sizes."""
        return {name: size for name, size in self.sizes.items() if name not in masked}

    def notes(self, masked: Collection[str]) -> tuple[str, ...]:
        """Return sentences on the matrices that no mask covers; none when masks cover all of them."""
        found, total = self.outside(masked), sum(self.sizes.values())
        sentences = []
        if found:
            weights = sum(found.values())
            largest = sorted(found, key=lambda name: -found[name])
            sentences.append(
                f"{weights:,} of {total:,} weights in matrices ({weights / total:.1%}) are outside the masks and stay "
                f"dense: {listing(largest, _MOST_NAMED)}"
            )
        if self.unknown:
            sentences.append(
                f"whether the network multiplies by {counted(len(self.unknown), 'parameter')} of its own is unknown, "
                f"and they stay dense: {listing(self.unknown, _MOST_NAMED)}"
            )
        return tuple(sentences)


def find_matrices(model: nn.Module, input_shape: Sequence[int]) -> Matrices:
    """Return the matrices of a network. A pass is made only where it has parameters that may be some outside of layers.

    Args:
        model: the network itself, not a wrapper of it. It is left exactly as it was.
        input_shape: of one example without the batch.
    """
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    sizes = {names[id(weight)]: prod(weight.shape) for weight in layer_weights(model)}
    others = tuple(name for name, parameter in parameters.items() if parameter.dim() > 1 and name not in sizes)
    if not others:
        return Matrices(sizes=sizes)
    try:
        counter = count_products(model, input_shape)
    except ModelError:
        return Matrices(sizes=sizes, unknown=tuple(name for name in others if "parametrizations." not in name))
    multiplied = [name for name in others if name in counter.operations]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    return Matrices(
        sizes=sizes | {name: prod(parameters[name].shape) for name in multiplied},
        bare=tuple(
            name
            for name in multiplied
            if name in counter.as_they_are and parameters[name].requires_grad and id(parameters[name]) not in tables
        ),
    )
