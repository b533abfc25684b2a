"""Checkpoints: a value (``value``), its bytes (``codec``), its file (``files``) and its check (``verification``).

    checkpoint = granet.checkpoint.load("runs/a/last.safetensors")
    granet.checkpoint.save("copy.safetensors", checkpoint)
    assert granet.checkpoint.verify("copy.safetensors").ok

``docs/format.md`` is the specification. Of the bytes, ``container`` knows the safetensors file, ``header`` the header,
``tensors`` how a tensor and its mask are encoded, ``integrity`` the hashes, ``reader`` an opened file.
"""

from granet.checkpoint.files import content_hash, load, load_outline, load_weights, save
from granet.checkpoint.value import Checkpoint, Network, Slot
from granet.checkpoint.verification import Verification, VerificationFailure, verify

__all__ = [
    "Checkpoint",
    "Network",
    "Slot",
    "Verification",
    "VerificationFailure",
    "content_hash",
    "load",
    "load_outline",
    "load_weights",
    "save",
    "verify",
]
