"""Exporters: from a checkpoint to ONNX and other files, smaller networks, and inference benchmarks."""
