"""Inference measured so that it can be believed: next to a control, in turns, in fresh processes, on one provider.

``measure`` (in ``runner``) is the door; what it returns, a ``Report``, holds figures and the environment, and judging
(``verdict``) and showing come after. ``statistics`` and ``environment`` need NumPy alone and serve ``benchmarks/`` too.
"""
