"""The folder that results are kept in: a small file for each finished cell, whole or not there at all.

A file says everything about its cell, the hash of the checkpoint and the settings included, so that which cells are
still to be measured is read off the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from granet.errors import CheckpointError, UsageError
from granet.files import atomic, mapped
from granet.plasticity.curves import Cell
from granet.plasticity.grid import GridSettings

_PATTERN = "cell-*.json"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Results:
    """What is in one folder."""

    folder: Path

    def read(self, settings: GridSettings) -> dict[tuple[str, float, str], Cell]:
        """All cells that are there, by what tells them apart.

        Raises:
            UsageError: they were measured with other settings.
            CheckpointError: a file is damaged, or of a newer version.
        """
        found = {}
        for path in sorted(self.folder.glob(_PATTERN)):
            cell = _read(path)
            if (other := settings.difference(cell)) is not None:
                raise UsageError(
                    "the folder holds results of other settings",
                    where=self.folder,
                    got=other,
                    remedy="repeat these, or choose another --out",
                )
            found[cell.key] = cell
        return found

    def add(self, cell: Cell) -> None:
        """Keeps a cell.

        Raises:
            FileError: the file cannot be written.
        """
        name = f"cell-{cell.step:08d}-{cell.rate!r}-{cell.regeneration}-{cell.checkpoint[:16]}.json"
        atomic.write(self.folder / name, cell.to_json().encode())


def _read(path: Path) -> Cell:
    data = mapped.read(path)
    try:
        text = data[: _MAX_BYTES + 1].tobytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("not a result of granet plasticity", where=path, remedy="remove it") from error
    if len(data) > _MAX_BYTES:
        raise CheckpointError("too large for a result of granet plasticity", where=path, remedy="remove it")
    return Cell.from_json(text, where=path)
