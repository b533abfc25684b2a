"""The sparsifier: masks and step, bound to a model and its optimizer, with the helpers that keep masks enforced."""

from granet.sparsifier.sparsifier import Sparsifier

__all__ = ["Sparsifier"]
