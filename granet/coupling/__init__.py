"""Channel coupling: which channels of a network can only be removed together, traced through its operators.

``coupled_channels`` returns the groups of a network, for a choice of whole channels; ``removal.plan`` finds those that
are dead. Both are of one analysis of the graph of ATen operators that ``torch.export`` makes (``tracing``): the rule of
each operator (``operators``, with ``contraction``, ``elementwise`` and ``rearranging``) says how the channels of its
result (``channels``) belong to those of its arguments.
"""

from granet.coupling.groups import CoupledSlice, coupled_channels

__all__ = ["CoupledSlice", "coupled_channels"]
