"""Verify a checkpoint file: every tensor is checked, whatever is wrong with the others."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from granet.allocation import sizes, total_budget
from granet.checkpoint.reader import File
from granet.errors import CheckpointError, GranetError
from granet.files import mapped
from granet.methods.registry import is_known
from granet.recipe import Recipe, build_method

_BLOCK = 2**16
"""Values that are examined together."""


@dataclass(frozen=True, kw_only=True)
class VerificationFailure:
    """One thing that is wrong with a file."""

    part: str
    """``header``, ``recipe``, ``budget``, or the name of the tensor in the file, such as ``weights/conv1.weight``."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of :func:`verify`."""

    path: str
    bytes: int
    """Length of the file."""
    content_hash: str | None = None
    """64 hexadecimal digits; None when the header is damaged."""
    step: int | None = None
    """Optimizer steps done; None when the header is damaged."""
    tensors: int = 0
    """How many were checked; 0 when the header is damaged."""
    parameters: int = 0
    """Maskable weights, by the header."""
    active: int = 0
    """How many of them are active, by the header."""
    failures: tuple[VerificationFailure, ...]
    notes: tuple[str, ...] = ()
    """What could not be checked, and why."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        """Return the fields and ``ok``, for JSON."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check all of a checkpoint through a memory map, one tensor at a time.

    Checked are: the header against its hash and against itself; every tensor against its hash; masks and explored
    sets against their counts; that explored sets contain the masks; that values are finite, those of extra state
    apart; that the recipe is
    valid, and, once the method has reached its final density, that exactly ``round(density * weights)`` are active.
    A weight or an optimizer slot outside its mask cannot be expressed in the format and so needs no check.

    Raises:
        FileError: there is nothing to read: no file, or not a regular one. All else is in the result.
    """
    data, name = mapped.read(path), os.fspath(path)
    try:
        file = File.open(data, name)
    except CheckpointError as error:
        failure = VerificationFailure(part="header", message=str(error))
        return Verification(path=name, bytes=data.size, failures=(failure,))
    failures: list[VerificationFailure] = []
    damaged = _check_tensors(file, failures)
    _check_masks(file, damaged, failures)
    notes = _check_recipe(file, failures)
    masks = file.header.masks.values()
    return Verification(
        path=name,
        bytes=data.size,
        content_hash=file.content_hash,
        step=file.header.step,
        tensors=len(file.stored),
        parameters=sum(math.prod(mask.shape) for mask in masks),
        active=sum(mask.count for mask in masks),
        failures=tuple(failures),
        notes=tuple(notes),
    )


@contextmanager
def _recorded(failures: list[VerificationFailure], part: str) -> Iterator[None]:
    """Record an error raised inside as a failure of ``part``, and continue after the block."""
    try:
        yield
    except GranetError as error:
        failures.append(VerificationFailure(part=part, message=str(error)))


def _check_tensors(file: File, failures: list[VerificationFailure]) -> set[str]:
    """Check each tensor by itself; return those that cannot be read."""
    damaged = set(file.stored)
    for tensor in file.stored:
        with _recorded(failures, tensor):
            bits = file.bits(tensor)
            damaged.remove(tensor)
            if not tensor.startswith("extra/"):  # whose meaning only its module knows
                _check_finite(bits, file.stored[tensor].dtype, file.name(tensor))
    return damaged


def _check_finite(bits: NDArray[Any], dtype: torch.dtype, where: str) -> None:
    if not dtype.is_floating_point:
        return
    blocks = (bits[start : start + _BLOCK] for start in range(0, bits.size, _BLOCK))
    values = (torch.from_numpy(block.copy()).view(dtype).double() for block in blocks)
    count = sum(int((~block.isfinite()).sum()) for block in values)
    if count:
        raise CheckpointError("values that are not finite", where=where, got=f"{count} of {bits.size}")


def _check_masks(file: File, damaged: set[str], failures: list[VerificationFailure]) -> None:
    for name in file.header.masks:
        mask, explored = f"masks/{name}", f"explored/{name}"
        if mask not in damaged:
            with _recorded(failures, mask):
                active = file.mask(name)
                if explored not in damaged:
                    with _recorded(failures, explored):
                        file.explored(name, active)


def _check_recipe(file: File, failures: list[VerificationFailure]) -> list[str]:
    """Check the recipe, and the number of active weights against it; return notes on what could not be checked."""
    header, masks = file.header, file.header.masks
    steps_per_epoch = header.progress.get("steps_per_epoch")
    with _recorded(failures, "recipe"):
        recipe = Recipe.from_dict(header.recipe)
        if not masks:
            return ["no budget to check: there are no masks"]
        if type(steps_per_epoch) is not int or steps_per_epoch < 1:
            return ["the budget was not checked: the file does not say how many steps an epoch has"]
        if not is_known(recipe.method.name):
            return [f"the budget was not checked: method {recipe.method.name} is code that was not confirmed"]
        method = build_method(recipe, steps_per_epoch)
        if not method.reached_final_density(header.step, recipe.total_steps(steps_per_epoch)):
            return ["the budget was not checked: the method has not reached its final density yet"]
        with _recorded(failures, "budget"):
            shapes = {name: mask.shape for name, mask in masks.items()}
            active, density = sum(mask.count for mask in masks.values()), method.final_density()
            budget = total_budget(shapes, density)
            if active != budget:
                raise CheckpointError(
                    "the number of active weights is not that of the recipe",
                    where=file.where,
                    got=active,
                    expected=f"{budget}, density {density:g} of {sum(sizes(shapes).values())}",
                )
    return []
