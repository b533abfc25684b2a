"""``granet bench``: how fast models run."""
