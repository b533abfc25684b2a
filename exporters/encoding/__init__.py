"""Weights in ONNX files, stored as what is not zero and decoded when a session is created.

    encoded = encode(model, encoding="auto", precision="fp32", scope=["conv1.weight"])
    inflate(encoded.model)   # the same with plain weights again

The encodings are described in ``docs/onnx-encodings.md``. ``functions`` has the decoders, ``layouts`` the bytes that
they read, ``values`` the number formats, ``coo`` the standard's own sparse initializer; ``parts`` puts a tensor
together, ``choose`` decides, ``encoding`` does it; ``reading`` trusts nothing on the way back, ``inflating`` goes it.
"""

from __future__ import annotations

from exporters.encoding.decode import Decoder, decoders, is_decoder_domain
from exporters.encoding.decoder_functions import DOMAIN
from exporters.encoding.encoding import ENCODINGS, Encoded, EncodedTensor, encode
from exporters.encoding.inflating import MARK, Inflated, expand, inflate
from exporters.encoding.values import PRECISIONS

__all__ = [
    "DOMAIN",
    "ENCODINGS",
    "MARK",
    "PRECISIONS",
    "Decoder",
    "Encoded",
    "EncodedTensor",
    "Inflated",
    "decoders",
    "encode",
    "expand",
    "inflate",
    "is_decoder_domain",
]
