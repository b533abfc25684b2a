"""Sparse convolutions for CPUs inside ONNX Runtime: the library, and the format of the programs that it runs."""

from granet.kernels.library import MISSING, path, register

__all__ = ["MISSING", "path", "register"]
