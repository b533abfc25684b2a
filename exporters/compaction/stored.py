"""Files of compacted networks: plain safetensors, with what is needed to build the network again.

A file holds parameters and persistent buffers under the names of the original network, in their smaller shapes. The
entry ``granet.network`` of its metadata says in JSON which network that was, and what images it takes.

Files may come from anybody. No more memory is allocated than the file holds, and shapes that contradict one another,
or the network, are an error: they are tried out on a network without data.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from exporters.compaction.surgery import replace
from granet.checkpoint import Network, canonical, container, header
from granet.checkpoint.container import StoredTensor
from granet.checkpoint.fields import Field
from granet.coupling.tracing import named_tensors
from granet.errors import CheckpointError, ModelError
from granet.files import atomic, mapped
from granet.models import build, check_confirmed, is_factory, outline

KEY = "granet.network"
"""The entry of the metadata."""

FORMAT, VERSION = "granet compacted network", 1


def write(path: str | os.PathLike[str], model: nn.Module, network: Network) -> None:
    """Write a smaller network to the file at ``path``, atomically and durably; equal ones make identical files.

    Raises:
        FileError: the file cannot be written; one that was there is as it was.
        CheckpointError: a tensor cannot be stored.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _stored(model).items()}
    for name, tensor in tensors.items():
        if tensor.dtype not in container.DTYPES.values():
            raise CheckpointError("a tensor of this kind cannot be stored", where=name, got=tensor.dtype)
    if "," in (precisions := _precisions(tensor.dtype for tensor in tensors.values())):
        raise CheckpointError("a network of several precisions cannot be stored", where=path, got=precisions)
    largest_first = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    fields = {"format": FORMAT, "version": VERSION, **asdict(network)}
    layout = container.lay_out(
        {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in largest_first},
        {"format": "pt", KEY: canonical.dumps(fields, where="network")},
    )
    data = np.zeros(layout.size, np.uint8)
    data[: len(layout.header)] = np.frombuffer(layout.header, np.uint8)
    for name, place in layout.places.items():
        data[place] = tensors[name].reshape(-1).view(torch.uint8).numpy()
    atomic.write(path, data.data)


def describe(path: str | os.PathLike[str]) -> Network:
    """Return name, classes and images of the network that the one in a file was made from.

    Raises:
        CheckpointError: not a file that :func:`write` wrote.
    """
    return _open(path)[0]


def load(path: str | os.PathLike[str], *, factory: str | None = None) -> nn.Module:
    """Load the network in a file, on the CPU, in evaluation mode.

    Args:
        path: of a file, from anybody.
        factory: when the network is ``package.module:factory``, that name again: building it runs code, and a file
            does not decide which.

    Returns:
        The network with smaller layers. It maps float [N, in_channels, image_size, image_size], normalised as
        :func:`describe` says, to logits [N, classes].

    Raises:
        CheckpointError: not a file that :func:`write` wrote, or a damaged one.
        ModelError: the network cannot be built or does not fit the file, or its factory was not confirmed.
    """
    network, stored = _open(path)
    where = os.fspath(path)
    own = is_factory(network.name)
    check_confirmed(network.name, factory)
    model = _original(network, where)
    _check_fit(model, stored, where)
    if not own:
        replace(model, {name: torch.empty(s.shape, dtype=s.dtype, device="meta") for name, s in stored.items()})
        _try_out(copy.deepcopy(model).to("meta"), network, where)
    replace(model, {name: s.tensor(f"{where}, tensor {name}") for name, s in stored.items()})
    if own:  # whose code may do anything with values
        _try_out(model, network, where)
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            raise ModelError("the file lacks a tensor that the network does not store", where=f"{where}, {name}")
    return model


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers."""
    persistent = model.state_dict().keys()
    return {name: tensor for name, tensor in named_tensors(model).items() if name in persistent}


def _open(path: str | os.PathLike[str]) -> tuple[Network, Mapping[str, StoredTensor]]:
    where = os.fspath(path)
    stored, metadata = container.read(mapped.read(path), where)
    if KEY not in metadata:
        raise CheckpointError(
            f"a safetensors file, but not of a compacted network: its header has no entry {KEY!r}",
            where=where,
            remedy="name a file that granet compact wrote",
        )
    place = f"{where}[{KEY!r}]"
    fields = Field(canonical.loads(metadata[KEY], where=place), place)
    if fields.object().get("format") != FORMAT or fields.object().get("version") != VERSION:
        raise CheckpointError(
            "not a compacted network of a version that this granet knows", where=place, expected=f"version {VERSION}"
        )
    return header.network(fields.record("format", "version", *header.NETWORK)), stored


def _original(network: Network, where: str) -> nn.Module:
    """Build the original network in evaluation mode, with random weights or none."""
    # An outline allocates nothing, whatever sizes the file claims.
    construct = build if is_factory(network.name) else outline
    try:
        return construct(network.name, **network.sizes).eval()
    except (TypeError, OverflowError) as error:  # what torch makes of sizes beyond 64 bits
        raise ModelError("the network cannot be built for these sizes", where=where, got=network.name) from error


def _precisions(dtypes: Iterable[torch.dtype]) -> str:
    """Return the floating-point formats among ``dtypes``, joined by commas."""
    return ", ".join(sorted({str(dtype) for dtype in dtypes if dtype.is_floating_point}))


def _check_fit(model: nn.Module, stored: Mapping[str, StoredTensor], where: str) -> None:
    """Compare names, numbers of dimensions and kinds of numbers; sizes may be smaller."""
    mine = _stored(model)
    if "," in (precisions := _precisions(tensor.dtype for tensor in stored.values())):
        raise ModelError("the network in the file is of several precisions", where=where, got=precisions)
    for name in sorted(mine.keys() ^ stored.keys()):
        raise ModelError(
            "the file belongs to another network",
            where=f"{where}, tensor {name}",
            got="the network lacks it" if name in stored else "the file lacks it",
        )
    for name, tensor in mine.items():
        now, was = stored[name].shape, tuple(tensor.shape)
        fits = len(now) == len(was) and all(0 < left <= right for left, right in zip(now, was, strict=True))
        if not fits or stored[name].dtype.is_floating_point != tensor.dtype.is_floating_point:
            raise ModelError(
                "the file belongs to another network",
                where=f"{where}, tensor {name}",
                got=f"{now} of {stored[name].dtype}",
                expected=f"at most {was} of {tensor.dtype}",
            )


@torch.no_grad()
def _try_out(model: nn.Module, network: Network, where: str) -> None:
    """Run a blank image through the network."""
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    shape = (1, network.in_channels, network.image_size, network.image_size)
    try:
        with like.device:
            output = model(torch.zeros(shape, dtype=like.dtype))
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    except Exception as error:
        raise ModelError(
            "the tensors in the file do not fit one another", where=where, got=f"{type(error).__name__}: {error}"
        ) from error
    if got != (1, len(network.classes)):
        raise ModelError(
            "the network in the file does not give one logit for each class",
            where=where,
            got=got,
            expected=(1, len(network.classes)),
        )
