"""Sparse training of convolutional networks: GraNet and its kin, from a recipe or in your own loop.

The doors: ``Sparsifier`` with a method of ``methods`` for a loop of your own; ``load_checkpoint`` and
``load_weights`` for what ``granet train`` wrote. ``allocation``, ``schedules`` and ``topology`` are the parts.
"""

from granet import allocation, methods, schedules, topology
from granet.checkpoint import Checkpoint, load_weights
from granet.checkpoint import load as load_checkpoint
from granet.sparsifier import Sparsifier

__all__ = [
    "Checkpoint",
    "Sparsifier",
    "allocation",
    "load_checkpoint",
    "load_weights",
    "methods",
    "schedules",
    "topology",
]
