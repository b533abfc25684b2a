"""Islands: chains of sparse layers as one node each, which the sparse kernels for CPUs compute."""

from exporters.islands.building import add_islands
from exporters.islands.finding import Island
from exporters.islands.inlining import inline_islands

__all__ = ["Island", "add_islands", "inline_islands"]
