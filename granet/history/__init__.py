"""The history of a run: every change of its masks, at about the cost of its entropy.

``entropy`` codes symbols of known probability, ``subsets`` subsets of known size, ``changes`` what an update did to the
masks, ``format`` the file that holds all updates of a run. ``docs/history.md`` is the specification. What writes the
file is ``granet.training.history_recorder``, what replays it ``granet.history.replay``.
"""

from __future__ import annotations

from granet.history.changes import FlatMasks, flat
from granet.history.format import Beginning, HistoryEntry, Log

__all__ = ["Beginning", "FlatMasks", "HistoryEntry", "Log", "flat"]
