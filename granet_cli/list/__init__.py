"""``granet list``: names to choose from."""
