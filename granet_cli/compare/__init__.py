"""``granet compare``: runs side by side."""
