"""Checks of output files before a command starts its work."""

from __future__ import annotations

from pathlib import Path


def check_target(out: Path, *sources: Path, overwrite: bool) -> None:
    """Check that writing ``out`` replaces nothing by accident.

    Raises:
        UsageError: ``out`` is one of ``sources``, or exists and ``overwrite`` is not set.
    """
    from granet.errors import UsageError

    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise UsageError(f"{source} would be overwritten", where="-o", got=out, remedy="choose another file")
    if out.exists() and not overwrite:
        raise UsageError("the file exists", where=out, remedy="replace it with --overwrite")
