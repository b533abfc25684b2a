"""Runs as one HTML page that needs nothing but itself.

``page`` puts it together from the data of ``granet.analysis.report``: ``tables``, ``run_section`` and the pictures of
``curves`` and ``heatmap``, which are drawn on the axes of ``plane`` with the scales of ``scales``. ``markup`` escapes
whatever is not markup, and ``style`` is how all of it looks.
"""
