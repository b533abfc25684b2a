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
    from granet_cli.render import Screen, print_json
    from granet_cli.tables import TableColumn, table

    if what not in CATALOGS:
        raise UnknownNameError("catalog", what, CATALOGS)
    entries = _entries(what)
    if json:
        print_json([{"name": name, "description": description} for name, description in entries.items()])
        return
    screen = Screen()
    columns = [TableColumn[str](what[:-1], lambda name: name), TableColumn[str]("", lambda name: entries[name])]
    screen.print(table(screen, columns, entries))


def _entries(what: str) -> dict[str, str]:
    """Return one-line descriptions by name."""
    if what == "recipes":
        from granet.recipe import Recipe

        return {name: Recipe.load(name).description for name in Recipe.names()}
    if what == "methods":
        from granet.methods import METHODS

        return {name: (method.__doc__ or "").partition("\n")[0] for name, method in METHODS.items()}
    from granet.data import DATASETS
    from granet.models import CATALOG

    catalog = CATALOG if what == "models" else DATASETS
    return {name: entry.description for name, entry in catalog.items()}
