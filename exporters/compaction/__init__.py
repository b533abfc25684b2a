"""Smaller networks that compute the same: channels that cannot matter are removed.

    compacted = exporters.compaction.compact(model, (images,))
    compacted.model(images)  # as before, in less time

    model = exporters.compaction.load("small.safetensors")  # which `granet compact` wrote
    logits = model(images)

A channel goes when nothing needs its value: every weight that reads it is zero, or reads for an output that nothing
needs either. A channel that has the same value everywhere and for every input, as behind a filter that is all zero,
goes too where its readers can add that value to their bias. Channels that are tied, by a sum or a batch norm for
instance, go together or not at all. `docs/compaction.md` says what is understood of a network, and what is not.

The network is analysed as the graph of ATen operators that `torch.export` makes of it, which is what the export to
ONNX starts from: whatever its modules are, a few dozen operators are all there is to understand, parameters are known
by name, and sizes that a forward pass spells out show as numbers. What is cut is a copy of the network itself, whose
forward pass stays the user's own, so that what comes out is an ordinary network for torch and for every exporter.

In the order of the work: `tracing` (the graph), `features` (channels), `state`, `contraction`, `elementwise` and
`rearranging` (what operators do to them), `plan` (what goes), `surgery` (going), `proof` (the outputs are the same),
`report`, and `stored` (files).
"""

from exporters.compaction.compacting import compact
from exporters.compaction.report import Compacted, LayerChange
from exporters.compaction.stored import describe, load, write

__all__ = ["Compacted", "LayerChange", "compact", "describe", "load", "write"]
