"""``granet plan``: a run before it is made."""
