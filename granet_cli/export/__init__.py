"""``granet export``: files for other tools."""
