"""``granet plasticity``: recovery from pruning."""
