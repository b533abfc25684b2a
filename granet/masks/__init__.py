"""Masks: which weights are active, how they are stored, chosen and written as bytes."""

from granet.masks.mapping import density

__all__ = ["density"]
