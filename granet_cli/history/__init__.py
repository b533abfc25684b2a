"""``granet history``: what moved in a run."""
