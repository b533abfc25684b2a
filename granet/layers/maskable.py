"""Which parameters of a model are masked: the matrices of its layers, but those kept dense by name.

Layers are convolutions, linear and bilinear ones, attention (``in_proj_weight``, one matrix for queries, keys and
values as in a linear layer that computes all three, or ``q_proj_weight`` and so on where their widths differ), and
recurrent layers and cells (``weight_ih``, ``weight_hh``, ``weight_hr``, one matrix for all gates). Embeddings are
looked up, not multiplied by, and stay dense. So do biases, and parameters that a network multiplies by outside of such
layers, unless they are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

from granet.errors import UnknownNameError, UsageError

MASKABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Convolutions and linear layers, whose ``weight`` can be masked; subclasses included."""


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names that a layer gives to its weights that can be masked; none for modules of other kinds."""
    if isinstance(module, (*MASKABLE, nn.Bilinear)):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        return ("in_proj_weight",) if module._qkv_same_embed_dim else separate
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight_"))
    return ("weight_ih", "weight_hh") if isinstance(module, nn.RNNCellBase) else ()


def layer_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of all layers that can be masked, each once; those that are computed are not among them."""
    found = [m._parameters.get(name) for m in model.modules() for name in weight_names(m)]
    return list({id(weight): weight for weight in found if weight is not None}.values())


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def maskable(model: nn.Module, dense: Sequence[str] = (), also: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Return the parameters to mask, by name, in the order of the model's modules.

    A parameter that several layers share appears once, under the name that ``named_parameters`` gives it, and is
    kept dense when any of its names is.

    Args:
        model: the network; wrappers are looked through.
        dense: patterns (``*``, ``?``, ``[...]``) of layers to keep dense, each matched against the name of the
            layer (``layer1.0.conv1``) and of its parameter (``layer1.0.conv1.weight``).
        also: names of further parameters, which a network multiplies by outside of such layers; see
            ``granet.flops.matrices``.

    Raises:
        UsageError: a pattern that matches nothing, no layer left, or a weight that cannot be masked as it is.
    """
    if isinstance(dense, str):
        raise UsageError("patterns come as a sequence", where="dense", got=repr(dense), expected=f"({dense!r},)")
    own: dict[object, str] = {id(parameter): name for name, parameter in unwrap(model).named_parameters()}
    names: dict[object, list[str]] = {}
    places: dict[object, tuple[nn.Module, str]] = {}
    for layer, module in unwrap(model).named_modules(remove_duplicate=False):
        known = weight_names(module)
        prefix = f"{layer}." if layer else ""
        for attribute in (
            *known,
            *(name for name in module._parameters if prefix + name in also and name not in known),
        ):
            weight = module._parameters.get(attribute)
            key: object = (
                (id(module), attribute) if weight is None else id(weight)
            )  # one for all layers that share a parameter
            names.setdefault(key, []).append(prefix + attribute)
            places[key] = module, attribute

    matched: set[object] = set()
    for pattern in dense:
        hits = {key for key, aliases in names.items() if any(_matches(alias, pattern) for alias in aliases)}
        if not hits:
            raise UnknownNameError(
                "layer in a dense pattern",
                pattern,
                [short_name(alias) for aliases in names.values() for alias in aliases],
            )
        matched |= hits

    chosen = {}
    for key, aliases in names.items():
        if key not in matched:
            chosen[own.get(key, aliases[0])] = _plain_weight(*places[key], aliases[0])
    if not chosen:
        raise UsageError(
            "there is nothing to mask",
            where=type(unwrap(model)).__name__,
            got=f"{len(names)} weights of layers, all kept dense" if names else "no such layer",
            expected="at least one convolution, linear, attention or recurrent layer",
        )
    for name, parameter in chosen.items():
        if not parameter.requires_grad:
            raise UsageError(
                "a frozen weight cannot be masked",
                where=name,
                remedy=f"{_keep_dense(name)}, or unfreeze it",
            )
    return chosen


def without_masks_before(model: nn.Module, names: Iterable[str]) -> frozenset[str]:
    """Return those of the parameters ``names`` that granet did not always mask, so that older states lack their masks.

    It masked the weights of convolutions and linear layers alone.
    """
    weights = {id(module._parameters.get("weight")) for module in model.modules() if isinstance(module, MASKABLE)}
    return frozenset(name for name in names if id(model.get_parameter(name)) not in weights)


def short_name(weight: str) -> str:
    """Return the name of the layer for a layer's ``weight``; other parameters keep their names."""
    return weight.removesuffix(".weight")


def _plain_weight(module: nn.Module, attribute: str, name: str) -> nn.Parameter:
    parameter = module._parameters.get(attribute)
    if parameter is None:
        raise UsageError(
            "the weight is computed, not a parameter of its layer",
            where=name,
            remedy=f"{_keep_dense(name)}, or remove its parametrization or old-style weight_norm first",
        )
    if isinstance(parameter, UninitializedParameter):
        raise UsageError(
            "the weight has no shape yet",
            where=name,
            remedy=f"{_keep_dense(name)}, or run one batch through the lazy module first",
        )
    return parameter


def _keep_dense(name: str) -> str:
    return f"keep the layer dense with dense=({short_name(name)!r},)"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0] or name, pattern)
