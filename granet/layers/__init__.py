"""Layers: which weights of a network are masked."""
