"""Runs: the folder of a run, what is in it, and where its weights come from."""
