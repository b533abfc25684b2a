"""Imports of libraries that come with an extra of granet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from granet.errors import ModelError, UsageError
from granet.models.torchvision_guard import import_torchvision


@contextmanager
def requires(library: str, *, extra: str, torchvision: bool = False) -> Iterator[None]:
    """Context of an import of ``library``, whose error names the extra of granet to install.

    With ``torchvision`` that is imported first, which fails with a CPU-only torch unless granet does it.

    Raises:
        UsageError: the import failed.
    """
    if torchvision:
        with suppress(ModelError):  # the import of the library then fails with a message of its own
            import_torchvision()
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{library} cannot be imported", got=error, remedy=f"install it with: pip install 'granet[{extra}]'"
        ) from error
