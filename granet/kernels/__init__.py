"""Sparse convolutions for CPUs inside ONNX Runtime: programs that the native library in ``kernels/`` runs."""
