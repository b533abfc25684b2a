"""``granet import``: weights of other programs."""
