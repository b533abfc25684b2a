"""How pictures look, and what is drawn at all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from granet_cli.targets import check_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")

# The colours of Okabe and Ito, which colour-blind people can tell apart, without the yellow, which is too pale for
# lines. There is one marker more than there are colours, so that 56 curves differ.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

GRID = "#dddddd"
REMARK = "#555555"

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "granet",  # equal pictures are equal files
    "text.parse_math": False,  # names of recipes may have dollars
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def check_plot(file: Path, *, overwrite: bool) -> None:
    """Refuses what cannot be drawn, before anything else is done.

    Raises:
        UsageError: no kind of picture, a file that is there without ``overwrite``, or matplotlib is not installed.
    """
    from granet.errors import UsageError

    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "not a kind of picture that can be drawn",
            where="--plot",
            got=file,
            expected=f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )
    check_target(file, overwrite=overwrite)
    try:
        import matplotlib.figure  # noqa: F401  is it there?
    except ModuleNotFoundError as error:
        raise UsageError(
            "drawing needs matplotlib, which is not installed",
            where="--plot",
            remedy="install it with granet's extra: pip install 'granet[plot]'",
        ) from error


@contextmanager
def styled() -> Iterator[None]:
    """Everything that draws is done within this."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of a name in a script that fonts lack
        yield


def save(figure: Figure, file: Path) -> None:
    """Writes a picture, without a date, so that equal ones are equal files.

    Raises:
        FileError: the file cannot be written.
    """
    from granet.files import atomic

    kind = file.suffix.lower().removeprefix(".")
    written = io.BytesIO()
    date = {"svg": "Date", "pdf": "CreationDate"}.get(kind)
    figure.savefig(written, format=kind, dpi=160, metadata=None if date is None else {date: None})
    atomic.write(file, written.getvalue())
