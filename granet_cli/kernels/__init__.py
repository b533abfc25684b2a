"""``granet kernels``: the library of sparse kernels for CPUs."""
