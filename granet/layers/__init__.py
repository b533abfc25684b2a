"""Layers: which weights of a network are masked, what their axes mean, and what they cost."""
