"""``granet compact``: a smaller plain network."""
