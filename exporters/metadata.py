"""Metadata of exported files: three JSON texts among the model's ``metadata_props``.

    granet.checkpoint  the source: content hash, step, network, and the data that it was trained on
    granet.weights     what is stored: precision, active weights and encoding of each tensor
    granet.proof       how it was compared with the torch model, the results, and the versions of libraries

``granet eval`` reads the first; the model does not compute with any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from granet.checkpoint import Checkpoint, Network, canonical, header
from granet.checkpoint.fields import Field
from granet.errors import ModelError

CHECKPOINT, WEIGHTS, PROOF = "granet.checkpoint", "granet.weights", "granet.proof"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint that a model was exported from.

    Attributes:
        content_hash: of the checkpoint.
        step: optimizer steps that were done.
        network: what the model expects, and its classes.
        data: the name of the dataset in granet's catalog.
        validation: the share of the training images that was set aside for validation.
        seed: of the run, which decides which images those are.
    """

    content_hash: str
    step: int
    network: Network
    data: str
    validation: float
    seed: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Origin:
        """Return that of a model exported from ``checkpoint``, which was loaded from a file."""
        return cls(
            content_hash=checkpoint.content_hash,
            step=checkpoint.step,
            network=checkpoint.network,
            data=checkpoint.recipe.data.name,
            validation=checkpoint.recipe.data.validation,
            seed=checkpoint.recipe.seed,
        )


def write_(model: onnx.ModelProto, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the metadata of ``model`` by ``entries``, each as JSON, in place."""
    onnx.helper.set_model_props(model, {key: canonical.dumps(value, where=key) for key, value in entries.items()})


def read_origin(model: onnx.ModelProto, *, where: str) -> Origin:
    """Return the checkpoint that an untrusted model says it was exported from.

    Raises:
        ModelError: it has no such entry, as models that granet did not export.
        CheckpointError: the entry is malformed.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == CHECKPOINT), None)
    if text is None:
        raise ModelError(
            "the file does not say for which images and classes it is",
            where=where,
            got=f"no {CHECKPOINT} among its metadata",
            remedy="use a file that granet export --onnx wrote",
        )
    root = Field(canonical.loads(text, where=f"{where}: {CHECKPOINT}"), f"{where}: {CHECKPOINT}")
    fields = root.record("content_hash", "step", "network", "data", "validation", "seed")
    record = fields["network"].record(*header.NETWORK)
    network = header.network(record)
    if min(network.std) <= 0:
        record["std"].refuse("positive numbers")
    validation = fields["validation"].value
    if not isinstance(validation, float) or not 0 < validation < 1:
        fields["validation"].refuse("a share above 0 and below 1")
    return Origin(
        content_hash=fields["content_hash"].text(),
        step=fields["step"].count(),
        network=network,
        data=fields["data"].text(),
        validation=validation,
        seed=fields["seed"].count(),
    )
