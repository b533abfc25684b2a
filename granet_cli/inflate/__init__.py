"""``granet inflate``: ONNX files with plain weights."""
