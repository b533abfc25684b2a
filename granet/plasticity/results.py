"""The measured cells of the experiment, and the folder that keeps a small JSON file for each of them.

A file says everything about its cell, the hash of the checkpoint and the settings included, so that which cells are
still to be measured is read off the folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from granet.errors import CheckpointError
from granet.files import atomic, mapped

FORMAT = 1
"""Version of the files."""

REGENERATIONS = ("none", "pruned", "swap")
"""What happens between pruning and training; see ``granet.plasticity.cell``."""

CellKey = tuple[str, float, str]
"""Content hash of the checkpoint, pruning rate and regeneration: what tells cells of the same settings apart."""

_MAX_BYTES = 64 * 1024
_REMEDY = "remove the file: granet plasticity then measures this cell again"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint, pruned by one rate, with one kind of regeneration, and trained on. Accuracies are from 0 to 1."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    checkpoint: str
    """Content hash of the checkpoint."""
    step: int
    """Of the checkpoint."""
    epoch: float
    """The same in epochs."""
    seed: int
    """Of the run that the checkpoint is of."""
    learning_rate: float
    """Constant learning rate at which the pruned network was trained."""
    rate: float
    """Share of the active weights that was pruned, above 0 and below 1."""
    regeneration: str
    """One of ``REGENERATIONS``."""
    epochs: int
    """Epochs of training after pruning."""
    scope: str
    """``global`` or ``uniform``: whether weights were ranked over all layers or in each."""
    drop_fraction: float | None
    """Share of each layer that ``swap`` dropped and grew; None for the others."""
    parameters: int
    """Maskable weights."""
    active_before: int
    """Active weights of the checkpoint."""
    active_pruned: int
    """Active weights after pruning."""
    active: int
    """Active weights after regeneration, which were trained."""
    before: float
    """Accuracy of the checkpoint."""
    pruned: float
    """Accuracy after pruning and regeneration, before any training."""
    after: float | None
    """Accuracy after training; None when the loss stopped being finite."""
    split: str
    """Split on which accuracies were measured."""
    examples: int
    """Number of its images."""
    device: str
    """cpu or cuda."""
    precision: str
    """Of the arithmetic."""

    @property
    def plasticity(self) -> float | None:
        """``after`` minus ``before``; None when training diverged."""
        return None if self.after is None else self.after - self.before

    @property
    def key(self) -> CellKey:
        """See ``CellKey``."""
        return self.checkpoint, self.rate, self.regeneration


def write(folder: Path, cell: Cell) -> None:
    """Write the file of a finished cell.

    Raises:
        FileError: the file cannot be written.
    """
    name = f"cell-{cell.step:08d}-{cell.rate!r}-{cell.regeneration}-{cell.checkpoint[:16]}.json"
    atomic.write(folder / name, (json.dumps({"format": FORMAT, **asdict(cell)}, indent=1) + "\n").encode())


def read(folder: Path) -> list[Cell]:
    """Read all cells in ``folder``.

    Raises:
        CheckpointError: a file is damaged, or of a newer version.
    """
    return [_read(path) for path in sorted(folder.glob("cell-*.json"))]


def _read(path: Path) -> Cell:
    data = mapped.read(path)
    if len(data) > _MAX_BYTES:
        raise CheckpointError("too large for a result of granet plasticity", where=path, remedy=_REMEDY)
    try:
        found = json.loads(data.tobytes())
        version = found.pop("format")
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise _not_a_result(path) from error
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            "written by a newer version of granet", where=path, got=f"format {version}", expected=FORMAT
        )
    if version != FORMAT:
        raise _not_a_result(path)
    try:
        return TypeAdapter(Cell).validate_json(json.dumps(found))
    except ValidationError as error:
        wrong = error.errors()[0]
        if wrong["type"] in ("missing", "unexpected_keyword_argument", "dataclass_type"):
            raise _not_a_result(path) from error
        name, value = wrong["loc"][0], repr(wrong["input"])[:80]
        raise CheckpointError("a result that cannot be", where=f"{path}, {name}", got=value, remedy=_REMEDY) from error


def _not_a_result(path: Path) -> CheckpointError:
    return CheckpointError("not a result of granet plasticity", where=path, remedy=_REMEDY)
