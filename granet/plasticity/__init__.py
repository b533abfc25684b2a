"""Pruning plasticity (2106.10404, section 3): how well a network recovers from being pruned in mid-training.

``grid`` says which checkpoints are pruned, how much and how, ``cell`` prunes one and trains it on, ``results`` keeps
the figures of each cell, ``experiment`` measures a grid, ``curves`` are its statistics,
``report`` is the whole result.
"""
