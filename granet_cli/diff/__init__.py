"""``granet diff``: two checkpoints."""
