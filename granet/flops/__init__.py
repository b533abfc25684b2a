"""Floating-point operations of the products of a masked network.

Two operations, a multiplication and an addition, for every active weight and every position it is applied to.
Normalisation, activations, pooling, biases, products element by element and the masks themselves are not counted, as in
the sparse-training literature (RigL, 1911.11134): dense ResNet-50 on 224 x 224 images costs 8.2e9.

Counted are convolutions and matrix products, wherever a forward pass does them: in modules, in functions, in attention
and recurrent layers, by hand. Products that no weight takes part in, such as those of queries with keys and of
attention with values, are dense work whatever the masks. Without masks the sum is that of ``torch.utils.flop_counter``,
which knows no bilinear layers and no products of a matrix with a vector.

A parameter whose parts are used at different numbers of positions, such as the packed weight of an attention layer that
looks at another sequence, is weighed as a whole by its density.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from granet.errors import UnknownNameError, UsageError
from granet.flops.forward_pass import count_products

WITHOUT_WEIGHTS = "products without weights"
"""The name under which products of activations with each other are counted, which is not the name of a parameter."""

_PARAMETRISED = re.compile(r"parametrizations\.(\w+)\.original\d*")


def inference(model: nn.Module, input_shape: Sequence[int], densities: Mapping[str, float] | None = None) -> float:
    """Return the FLOPs of one forward pass on one example, each layer's times its density: f_S, or f_D without any.

    Args:
        model: the network itself, not a compiled or distributed wrapper of it. It is left exactly as it was.
        input_shape: shape of one example without the batch, (C, H, W) for images.
        densities: active share, 0 to 1, by parameter name such as ``conv1.weight``. A parameter left out counts
            as dense; one that costs nothing may be named.

    Raises:
        UnknownNameError: a density is given for a parameter that the network has not.
        UsageError: a density is outside [0, 1], or the shape is not positive.
        ModelError: the forward pass cannot be traced.
    """
    densities = densities or {}
    names = dict(model.named_parameters())
    for name, density in densities.items():
        if name not in names:
            raise UnknownNameError("parameter", name, names, where="densities")
        if not 0.0 <= density <= 1.0:
            raise UsageError("a density is a share", where=name, got=density, expected="0 to 1")
    costs = layers(model, input_shape)
    return sum((cost * densities.get(name, 1.0) for name, cost in costs.items()), 0.0)


def layers(model: nn.Module, input_shape: Sequence[int]) -> dict[str, float]:
    """Return the dense FLOPs of one forward pass on one example by name of the weight, in the order of first use.

    A weight that is used several times counts every time, and layers that share a weight count together, under the name
    that ``model.named_parameters()`` gives it. A parametrised weight goes by its plain name. What evaluation mode does
    not run is absent. Last come, under ``WITHOUT_WEIGHTS``, products of activations, if there are any.

    The pass runs on a copy of the network without data (torch's meta device), in evaluation mode: it needs hardly any
    memory, no random numbers, and changes nothing. ResNet-50 takes 0.05 s; the first pass of a process about a second
    more, while torch loads its rules for shapes.

    Raises:
        UsageError: the shape is not positive.
        ModelError: the forward pass depends on the values of tensors, or fails on this shape.
    """
    counter = count_products(model, input_shape)
    costs: dict[str, float] = {}
    for name, operations in counter.operations.items():
        plain = _PARAMETRISED.sub(r"\1", name)
        costs[plain] = costs.get(plain, 0.0) + operations
    if counter.without_weights:
        costs[WITHOUT_WEIGHTS] = counter.without_weights
    return costs


def notes(costs: Mapping[str, float], active: float) -> tuple[str, ...]:
    """Return a sentence on products without weights, if there are any among the ``active`` FLOPs of a network."""
    dense = costs.get(WITHOUT_WEIGHTS, 0.0)
    share = dense / active if active else 0.0
    return (f"{share:.1%} of the FLOPs are products without weights, as in attention, which no mask makes fewer",) * (
        dense > 0
    )


def training_step(active: float, dense: float, *, dense_gradient: bool = False) -> float:
    """Return the FLOPs of one optimizer step per example: forward, gradients of activations, gradients of weights.

    3 f_S for a sparse network; with ``dense_gradient``, as a topology update by gradient needs it, 2 f_S + f_D. Over
    dT plain steps and one with a dense gradient the mean is RigL's (3 f_S dT + 2 f_S + f_D) / (dT + 1)
    (1911.11134).

    Args:
        active: f_S, from :func:`inference` with the densities of that step.
        dense: f_D, the same without densities.
        dense_gradient: whether the step computes gradients for inactive weights too.
    """
    return 2.0 * active + (dense if dense_gradient else active)
