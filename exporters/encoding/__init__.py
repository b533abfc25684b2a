"""Sparse weights in ONNX files: only non-zero values are stored, and decoded when a session is created.

    encoded = encode(model, encoding="auto", precision="fp32", scope=["conv1.weight"])
    inflate(encoded.model)   # the same with plain weights again

The encodings are described in ``docs/onnx-encodings.md``. ``decoder_functions`` has the decoders, ``layouts`` the bytes
that they read, ``values`` the number formats, ``coo`` the standard's own sparse initializer. ``encodable`` finds what
can be encoded, ``choose`` chooses encodings, ``node_builder`` builds nodes, ``encoder`` puts a model together;
``decode`` reads untrusted models, ``inflating`` replaces what was encoded.
"""

from __future__ import annotations

from exporters.encoding.decode import EncodedWeight
from exporters.encoding.decoder_functions import DOMAIN
from exporters.encoding.encoder import ENCODINGS, Encoded, EncodedTensor, encode
from exporters.encoding.inflating import MARK, Inflated, inflate, inflate_with_names
from exporters.encoding.values import PRECISIONS

__all__ = [
    "DOMAIN",
    "ENCODINGS",
    "MARK",
    "PRECISIONS",
    "Encoded",
    "EncodedTensor",
    "EncodedWeight",
    "Inflated",
    "encode",
    "inflate",
    "inflate_with_names",
]
