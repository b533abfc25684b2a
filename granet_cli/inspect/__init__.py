"""``granet inspect``: a look inside a file."""
