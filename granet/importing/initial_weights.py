"""Load the weights of a file into a network that is to be trained.

Unlike an import, which takes every tensor or none, this may leave the classifier out: the commonest use is a network
that was trained on other classes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from granet import checkpoint
from granet.checkpoint import container, header
from granet.errors import CheckpointError, GranetError
from granet.files import mapped
from granet.importing import advice, masking, match_tensors, reading, sharded, sizes
from granet.layers.maskable import maskable
from granet.models import extra_state, load_weights


@dataclass(frozen=True)
class StartingWeights:
    """The weights that a run started from."""

    file: str
    """Its name, without the folder."""
    hash: str
    """SHA-256 of its bytes, in hexadecimal."""
    initialised: tuple[str, ...]
    """The tensors that kept their initial values, because the file has other classes."""
    remarks: tuple[str, ...]
    """What was left out, renamed or converted, in words."""


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file, in hexadecimal; of an index, that of it and then of all files that it names.

    Raises:
        FileError: it cannot be read.
    """
    digest = hashlib.sha256(mapped.read(path).data)
    for part in sharded.files(Path(path)) if sharded.is_index(os.fspath(path)) else ():
        digest.update(mapped.read(part).data)
    return digest.hexdigest()


def start_from(
    path: str | os.PathLike[str],
    network: nn.Module,
    model: str,
    *,
    in_channels: int,
    classes: int,
    image_size: int,
    expected_hash: str | None = None,
) -> StartingWeights:
    """Copy the weights and buffers of a file into ``network``, which was just built.

    The file is a granet checkpoint, whose masks are not taken along but whose zeros are, or one of another program as
    :func:`granet.importing.import_weights` reads them. A classifier of another number of classes stays as it was
    initialised. Anything else that does not fit is an error, and nothing is copied then.

    ``network``, on any device, was built from ``model`` and the three sizes.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it is damaged, or has another content.
        ModelError: it does not fit the network; every difference is named.
    """
    where, found = os.fspath(path), content_hash(path)
    if expected_hash not in (None, found):
        raise CheckpointError(
            "the weights that the run starts from are no longer those that it was begun with",
            where=where,
            got=f"SHA-256 {found}",
            expected=expected_hash,
            remedy="bring the file back, or begin another run",
        )
    tensors, remarks, advise = _read(path, network, where)
    try:
        given = {"in_channels": in_channels, "image_size": image_size}
        classifier = sizes.dependent_parameters(model, given, "classes", classes, classes + 1)
    except GranetError:  # a factory for one number of classes has no classifier that could be of another
        classifier = {}
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    other = all(
        name in tensors and _differs_along(tensors[name], own[name], parameter.dimension)
        for name, parameter in classifier.items()
    )
    left = tuple(classifier) if other else ()
    kept = {name: own[name].detach().cpu() for name in left}
    extra, remarked = extra_state.chosen(network, tensors)
    plain = {name: tensor for name, tensor in tensors.items() if name not in extra}
    fitted = match_tensors.fit({**plain, **kept}, network, model, where, advice=advise)
    load_weights(network, fitted.weights, fitted.buffers, extra)
    return StartingWeights(os.path.basename(where), found, left, (*remarks, *fitted.remarks, *remarked))  # noqa: PTH119  a path of any kind


def _read(
    path: str | os.PathLike[str], network: nn.Module, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...], match_tensors.Advice]:
    """Return the tensors by the names of the network, remarks on what was changed or left out, and advice."""
    if _is_checkpoint(path, where):
        remarks = ("took the weights of a granet checkpoint, not its masks",)
        return checkpoint.load_weights(path), remarks, lambda *_: ""
    file = reading.read(path, network)
    plain = dict(file.tensors)
    masks = masking.in_file(file, {name: name for name in plain}, list(maskable(network)))
    for name in masks.keys() & plain.keys():
        active = masking.boolean(masks[name], plain[name], f"{where}, mask of {name}")
        plain[name] = torch.where(active, plain[name], plain[name].new_zeros(()))
    masked = ("set weights outside of the file's masks to 0, and took no masks",) if masks else ()
    return plain, (*file.remarks, *masked), partial(advice.on_names, file, network)


def _is_checkpoint(path: str | os.PathLike[str], where: str) -> bool:
    try:
        return header.KEY in container.read(mapped.read(path), where)[1]
    except CheckpointError:
        return False  # whoever reads it next says what is wrong


def _differs_along(theirs: Tensor, mine: Tensor, dimension: int) -> bool:
    """Whether two shapes differ in this dimension, and in no other."""
    if theirs.dim() != mine.dim():
        return False
    different = [position for position, (a, b) in enumerate(zip(theirs.shape, mine.shape, strict=True)) if a != b]
    return different == [dimension]
