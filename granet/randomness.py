"""Random draws keyed by their purpose: ``generator(seed, "grow", step, layer)``.

The same key gives the same draw on every rank, device and resumed run, since nothing depends on earlier draws. Draws
are made on the CPU and moved; those of ``granet.masks.random_scores`` use integers, which are the same everywhere.
"""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit integer that is a hash of ``seed`` and ``purpose``; stable across machines and versions."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a new CPU generator for one purpose; equal arguments give equal streams."""
    return torch.Generator().manual_seed(key(seed, *purpose))
