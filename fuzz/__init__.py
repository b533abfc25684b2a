"""Broken and hostile checkpoints, made by the thousand: whatever is in a file, it opens soundly or not at all."""
