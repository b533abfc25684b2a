"""``granet train``: a run from its recipe."""
