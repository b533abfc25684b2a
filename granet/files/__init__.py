"""Files: written whole and durably, or not at all."""
