"""Advice for a file whose tensors do not fit the network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from granet.errors import GranetError, ModelError
from granet.importing import leftovers, names, prefixes, sizes
from granet.importing.reading import ForeignTensors

STATISTICS = ("running_mean", "running_var")
"""The buffers of batch norms, which files of parameters alone lack."""


def on_names(file: ForeignTensors, network: nn.Module, missing: Sequence[str], strangers: Sequence[str]) -> str:
    """Return what to try where the network has tensors that are ``missing`` and the file has ``strangers``; or ""."""
    if not missing:
        options = leftovers.options(strangers)
        return f"if these are not part of it, leave them out with granet import {options}" if strangers else ""
    if re.search(r"-\d+-of-\d+\.", file.where):
        return "the file is one of several: name their index, which ends in .index.json"
    if file.prefix and (found := prefixes.covering(missing, strangers)):
        options = " ".join(f"--prefix {prefix[:-1]}" for prefix in (file.prefix, *found))
        return f"the rest is elsewhere: try granet import {options}"
    if any(".parametrizations." in name for name in strangers):
        return (
            "the file has weights as parametrizations keep them: make those permanent before saving, with "
            "remove_parametrizations or the sparsifier's squash_mask()"
        )
    if not strangers and all(name.rpartition(".")[2] in STATISTICS for name in missing):
        return "the file has no buffers, as named_parameters() has none: save model.state_dict() in it"
    if file.format == "safetensors":
        return ""
    try:
        names.in_order(file.tensors, network, file.where)
    except ModelError:
        return ""
    return "in order their kinds agree: try granet import --by-order"


def on_classes(model: str, given: Mapping[str, int], tensors: Mapping[str, Tensor]) -> str:
    """Return what to do where the file has another number of classes than was given; or ""."""
    others = {size: value for size, value in given.items() if size != "classes"}
    try:
        classes = sizes.infer_sizes(model, others, tensors)["classes"]
    except GranetError:  # a factory for one number of classes
        return ""
    if given.get("classes", classes) == classes:
        return ""
    return (
        f"the file has {classes} classes, not {given['classes']}: import it with --image-size instead of --data and "
        "--classes, or train from it with granet train --weights, which begins with a new classifier"
    )
