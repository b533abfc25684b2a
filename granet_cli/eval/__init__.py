"""``granet eval``: accuracy on a split."""
