"""``granet list``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from granet_cli import options

CATALOGS = ("recipes", "models", "methods", "datasets")


def list_names(
    what: Annotated[
        str,
        typer.Argument(
            metavar="|".join(CATALOGS),
            help="What to list.",
            show_default=False,
            autocompletion=lambda incomplete: [name for name in CATALOGS if name.startswith(incomplete)],
        ),
    ],
    json: options.Json = False,
) -> None:
    """List recipes, models, methods or datasets.

    \b
    Examples:
      granet list recipes
      granet list methods --json
    """
    from granet.errors import UnknownNameError
    from granet_cli.render import Column, Screen, print_json, table

    if what not in CATALOGS:
        raise UnknownNameError("catalog", what, CATALOGS)
    entries = _entries(what)
    if json:
        print_json([{"name": name, "description": description} for name, description in entries])
        return
    screen = Screen()
    screen.print(table([Column(what[:-1]), Column("")], entries, width=screen.columns))


def _entries(what: str) -> list[tuple[str, str]]:
    """Names and one-line descriptions."""
    if what == "recipes":
        from granet.recipe import Recipe

        return [(name, Recipe.load(name).description) for name in Recipe.names()]
    if what == "models":
        from granet.models import CATALOG

        return [(entry.name, entry.description) for entry in CATALOG.values()]
    if what == "datasets":
        from granet.data import DATASETS

        return [(entry.name, entry.description) for entry in DATASETS.values()]
    from granet.methods import METHODS

    return [(name, (method.__doc__ or "").partition("\n")[0]) for name, method in METHODS.items()]
