"""Files on disk: ``atomic`` replaces one whole and durably, ``mapped`` reads one through a memory map."""
