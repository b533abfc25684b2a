"""Analysis of checkpoints, recipes and runs as data: inspection, comparison, difference, trajectory, report."""
