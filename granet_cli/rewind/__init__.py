"""``granet rewind``: prune and retrain."""
