"""Masks: which weights are active, how they are stored, chosen and written as bytes."""
