"""Elements of HTML and SVG. Text becomes part of a page through here alone, and is escaped unless it is markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"meta", "col", "br"})
"""Elements of HTML without an end."""


_MIXED = {"viewbox": "viewBox", "preserveaspectratio": "preserveAspectRatio"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Markup | Iterable["Child"] | None


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: text, which is escaped, and markup, which is not; None is nothing.
        attributes: an underscore at the end of a name is dropped, and others are hyphens; values are escaped. None
            and False leave the attribute out, True gives it no value.
    """
    opened = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        attribute = _MIXED.get(attribute, attribute)
        opened += f" {attribute}" if value is True else f' {attribute}="{escaped(value)}"'
    if name in VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(map(_markup, children)))


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, str):
        return escaped(child)
    return joined(*child)


def escaped(text: object) -> str:
    """``text`` as it reads, wherever it stands in a page: characters that steer markup, lines or the direction of
    writing are told, not obeyed."""
    told = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return html.escape(told, quote=True)


def number(value: float) -> str:
    """A coordinate, to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
