"""Compaction: smaller networks that compute the same, without the channels that cannot matter.

    compacted = exporters.compaction.compact(model, (images,))
    compacted.model(images)  # as before, in less time

    model = exporters.compaction.load("small.safetensors")  # which `granet compact` wrote
    logits = model(images)

docs/compaction.md says which channels go. The network is analysed as the graph of ATen operators that `torch.export`
makes of it (`granet.coupling`), so that a few dozen operators are all there is to understand. What is cut is a copy of
the network itself, whose forward pass stays the user's own: the result is an ordinary network for torch and for every
exporter.

In the order of the work: `compacting`, `surgery` (tensors are cut), `proof` (the outputs are the same), `report`, and
`stored` (files).
"""

from exporters.compaction.compacting import compact
from exporters.compaction.report import Compacted, LayerChange
from exporters.compaction.stored import describe, load, write

__all__ = ["Compacted", "LayerChange", "compact", "describe", "load", "write"]
