"""Inference benchmarks that can be trusted: next to a control, in turns, in fresh processes, on one provider.

``runner.measure`` is the entry point and returns a ``report.BenchReport``. ``statistics`` and ``environment`` serve
``benchmarks/`` too.
"""
