"""The commands: each parses, makes one call to the library, and renders what it returns."""
