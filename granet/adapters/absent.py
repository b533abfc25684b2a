"""Libraries that not everybody has: what to install when one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from granet.errors import ModelError, UsageError
from granet.models.torchvision_guard import import_torchvision


@contextmanager
def needed(library: str, *, extra: str, torchvision: bool = False) -> Iterator[None]:
    """Around an import: says which extra of granet brings ``library`` when it cannot be imported.

    Args:
        library: its name.
        extra: that of granet.
        torchvision: the library imports torchvision, which beside a CPU-only torch only granet knows how to do.

    Raises:
        UsageError: the import failed.
    """
    if torchvision:
        with suppress(ModelError):  # then the library has its say
            import_torchvision()
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{library} cannot be imported", got=error, remedy=f"install it with: pip install 'granet[{extra}]'"
        ) from error
