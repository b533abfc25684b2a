"""Broken files and unusual networks, made by the thousand: each works soundly or is refused with a sentence."""
