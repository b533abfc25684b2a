"""Rewinding (2003.02389): prune a trained network, set it back, and train it again.

``points`` finds the states a run can be set back to, ``plan`` turns a request into a recipe, ``start_state`` makes the
state that such a recipe starts from, ``preview`` says what its rounds cost. ``granet.training.rounds`` trains them.
"""
