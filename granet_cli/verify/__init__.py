"""``granet verify``: whether checkpoints are whole."""
