"""What an exported file says of itself: three JSON texts among the model's ``metadata_props``.

    granet.checkpoint  where it is from: content hash, step, network, and the data that it was trained on
    granet.weights     what is stored: precision, active weights and encoding of each tensor, the entropy limit
    granet.proof       how it was compared with the torch model, what came of it, and with which versions

``granet eval`` reads the first; none of them has a part in what the model computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from granet.checkpoint import Checkpoint, Network, canonical, header
from granet.checkpoint.fields import Field
from granet.errors import ModelError

CHECKPOINT, WEIGHTS, PROOF = "granet.checkpoint", "granet.weights", "granet.proof"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model is from.

    Attributes:
        content_hash: of the checkpoint.
        step: optimizer steps that were done.
        network: what the model expects and means.
        data: the name of the dataset in granet's catalog.
        validation: the share of the training images that was held out.
        seed: of the run, which decides which ones.
    """

    content_hash: str
    step: int
    network: Network
    data: str
    validation: float
    seed: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, content_hash: str) -> Origin:
        """That of a model exported from ``checkpoint``."""
        return cls(
            content_hash=content_hash,
            step=checkpoint.step,
            network=checkpoint.network,
            data=checkpoint.recipe.data.name,
            validation=checkpoint.recipe.data.validation,
            seed=checkpoint.recipe.seed,
        )


def write_(model: onnx.ModelProto, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds ``entries`` to the model as JSON, in place, instead of what was there."""
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=canonical.dumps(value, where=key))


def origin_entry(origin: Origin) -> dict[str, Any]:
    """``origin`` as JSON."""
    return asdict(origin)


def read_origin(model: onnx.ModelProto, *, where: str) -> Origin:
    """Where a model says that it is from; it may come from anybody.

    Raises:
        ModelError: it does not say, as models that granet did not export.
        CheckpointError: what it says cannot be.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == CHECKPOINT]
    if not texts:
        raise ModelError(
            "the file does not say for which images and classes it is",
            where=where,
            got=f"no {CHECKPOINT} among its metadata",
            remedy="use a file that granet export --onnx wrote",
        )
    root = Field(canonical.loads(texts[0], where=f"{where}: {CHECKPOINT}"), f"{where}: {CHECKPOINT}")
    fields = root.record("content_hash", "step", "network", "data", "validation", "seed")
    network = header.network(fields["network"].record(*header.NETWORK))
    if min(network.std) <= 0:
        fields["network"].refuse("standard deviations above 0")
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
