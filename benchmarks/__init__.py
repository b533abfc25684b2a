"""Every performance claim as a command that measures it, side by side in one run."""
