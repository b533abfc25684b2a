"""Rewinding (2003.02389): prune a trained network, set it back, and train it again.

``points`` finds the states a run can be set back to, ``plan`` turns what is asked for into a recipe, ``start`` makes
the state that such a recipe begins with, ``rounds`` prunes and retrains over and over.
"""
