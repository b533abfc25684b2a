"""Colours of charts and of the page, for light and dark, and dashes and markers of curves."""

from __future__ import annotations

# Colours of Okabe and Ito, which colour-blind people can tell apart, without those too pale for lines: each has a
# contrast of at least 3 to the paper. On black the same hues are lighter.
LIGHT = {
    **{"c0": "#0072b2", "c1": "#d55e00", "c2": "#008a64", "c3": "#b8578e", "c4": "#1a1a1a"},
    **{"paper": "#ffffff", "ink": "#1a1a1a", "faint": "#595959", "rule": "#d9d9d9", "panel": "#f4f4f2"},
    **{"warn": "#b35900", "link": "#0062a3"},
}
DARK = {
    **{"c0": "#56b4e9", "c1": "#f0803c", "c2": "#2cc295", "c3": "#e0a0c4", "c4": "#f2f2f2"},
    **{"paper": "#15171a", "ink": "#ececec", "faint": "#a8adb3", "rule": "#3a3e44", "panel": "#202328"},
    **{"warn": "#f0a04b", "link": "#7cc4f5"},
}

COLOURS = tuple(f"var(--c{number})" for number in range(5))
"""CSS variables: the page defines them for light and dark; ``render`` replaces them in files."""
INK, FAINT, RULE = "var(--ink)", "var(--faint)", "var(--rule)"

DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3])
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
DISTINCT_LINES = len(COLOURS) * len(DASHES)
"""Number of lines that differ in colour or dash."""


def colour(number: int) -> str:
    """Return the colour of curve ``number``, from 0."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> list[int]:
    """Return lengths of strokes and gaps in pixels; dashes change when all colours are used."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def marker(number: int) -> str:
    """Return the Vega name of the marker of curve ``number``."""
    return MARKERS[number % len(MARKERS)]
