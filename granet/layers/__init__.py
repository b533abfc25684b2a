"""Layers: which weights of a network are masked, what their axes mean, and what they cost."""

from granet.layers.maskable import maskable, unwrap

__all__ = ["maskable", "unwrap"]
