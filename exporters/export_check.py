"""Find out before a network is trained whether it can be exported once it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exporters import onnx_graph, proof
from exporters.examples import Batch
from granet.errors import GranetError, ModelError
from granet.layers.maskable import unwrap


def obstacle(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor, *, where: str) -> str | None:
    """Return why the network could not be exported to ONNX, as a sentence with its remedy; None if nothing is known.

    A copy of the network is taken through what an export does up to the weights in the graph: two runs, which have to
    agree, the trace, its cleanup, and the search for every masked weight. That the file computes what torch computes
    is proved by the export itself.

    Args:
        model: on any device, in any mode; left as it is.
        masks: by the names of their weights, which are zero outside them.
        images: a batch of at least 2, whose values do not matter.
        where: the name of the network.
    """
    try:
        with torch.random.fork_rng(devices=()):  # which a network may draw from, even here
            _take_through(model, masks, images, where)
    except GranetError as error:
        return str(error)
    except Exception as error:  # of torch or of the network: what it was, the run has nothing to do with it
        return f"{where}: {type(error).__name__}: {error}"
    return None


def _take_through(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor, where: str) -> None:
    network = _copy(model)
    inputs = (images.to("cpu", torch.float32),)
    proof.reference(network, [Batch(inputs, "zeros")], where)
    onnx_graph.of(network, inputs, {name: mask.cpu() for name, mask in masks.items()}, where=where)


def _copy(model: nn.Module) -> nn.Module:
    try:
        network = copy.deepcopy(unwrap(model)).cpu().eval()
    except Exception as error:
        raise ModelError(
            "the network cannot be copied", where=type(model).__name__, got=f"{type(error).__name__}: {error}"
        ) from error
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.contiguous()  # as a checkpoint holds it, whatever the run trains in
    return network
