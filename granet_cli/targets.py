"""Files that a command is about to write."""

from __future__ import annotations

from pathlib import Path


def check_target(out: Path, *sources: Path, overwrite: bool) -> None:
    """Refuses to replace what was not meant to be replaced.

    Raises:
        UsageError: ``out`` is one of ``sources``, or is there already without ``overwrite``.
    """
    from granet.errors import UsageError

    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise UsageError(f"{source} would be overwritten", where="-o", got=out, remedy="choose another file")
    if out.exists() and not overwrite:
        raise UsageError("the file is there already", where=out, remedy="replace it with --overwrite")
