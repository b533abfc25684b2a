"""Charts drawn: as SVG for the page, and as files for ``--plot``. Equal charts are equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from granet_cli.charts.palette import FAINT, INK, LIGHT, RULE
from granet_cli.charts.parts import Spec
from granet_cli.render import printable
from granet_cli.targets import check_target

SUFFIXES = (".svg", ".png", ".pdf")

_FONT = "sans-serif"
_TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11}
_CONFIG: Spec = {
    "aria": False,
    "font": _FONT,
    "lineBreak": "\n",
    "view": {"stroke": None},
    "title": {"anchor": "start", "color": INK, "fontWeight": "normal", "fontSize": 13, "offset": 8}
    | {"subtitleColor": FAINT, "subtitleFontSize": 10},
    "axis": {**_TEXT, "titleFontWeight": "normal", "gridColor": RULE, "domainColor": FAINT, "tickColor": FAINT},
    "axisX": {"grid": False, "tickSize": 4},
    "axisY": {"domain": False, "ticks": False, "labelPadding": 5}
    | {"titleAngle": 0, "titleAlign": "left", "titleX": -40, "titleY": -10},  # above the axis, readable
    "legend": {**_TEXT, "labelLimit": 0, "symbolStrokeWidth": 1.7, "symbolOpacity": 1, "titleFontWeight": "normal"},
}


def check_plot(file: Path, *, overwrite: bool) -> None:
    """Check that a chart can be written to ``file``, before anything is measured.

    Raises:
        UsageError: the suffix names no format of ours, or the file exists and ``overwrite`` is not set.
    """
    from granet.errors import UsageError

    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "not an image format that can be written",
            where="--plot",
            got=file,
            expected=f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )
    check_target(file, overwrite=overwrite)


def write(file: Path, chart: Spec) -> None:
    """Write a chart in the format of its suffix, in light colours on white.

    Raises:
        FileError: the file cannot be written.
    """
    import vl_convert

    from granet.files import atomic

    drawn = _COLOURED.sub(lambda match: f'{match[1]}="{LIGHT[match[2]]}"', svg({"background": "white", **chart}))
    formats: dict[str, Callable[[], bytes]] = {
        ".svg": drawn.encode,
        ".png": lambda: vl_convert.svg_to_png(drawn, scale=2),
        ".pdf": lambda: _RESOURCES.sub(_sorted_lines, vl_convert.svg_to_pdf(drawn)),
    }
    atomic.write(file, formats[file.suffix.lower()]())


# The PDF writer lists the resources of a page in random order; other bytes, and so the offsets in the file, stay.
_RESOURCES = re.compile(rb"(?: {6}/\w+ \d+ 0 R\n){2,}")


def _sorted_lines(block: re.Match[bytes]) -> bytes:
    return b"".join(sorted(block[0].splitlines(keepends=True)))


_COLOURED = re.compile(r'\b(fill|stroke)="var\(--(\w+)\)"')


def svg(chart: Spec) -> str:
    """Return a chart as SVG; its colours are CSS variables, see ``palette``. Text stays text, shown as it is."""
    import vl_convert

    whole = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "background": None, "config": _CONFIG}
    return str(vl_convert.vegalite_to_svg(_printable({**whole, **chart}), vl_version="6.4"))


def _printable(value: Any) -> Any:
    """Escape characters that steer lines or the direction of writing in every string of a specification."""
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
