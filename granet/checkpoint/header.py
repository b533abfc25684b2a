"""The header of a checkpoint: everything in it that is not a tensor, and what each tensor is.

It is canonical JSON under the single metadata key ``granet`` of the safetensors file (metadata are a hash map: with
one key there is no order to vary). Nothing in it depends on when, where or by whom the file was written.

Versions: a reader takes any minor version of a major one that it knows. A newer minor version may add fields at the
top, which a reader that does not know them ignores; whatever else changes is a new major version. In a version that the
reader knows, an unknown field is an error. Version 2 is version 1 with extra state, and is used where there is any: a
reader without it would compute something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from granet.checkpoint import canonical, extra_state
from granet.checkpoint.canonical import short
from granet.checkpoint.container import StoredTensor
from granet.checkpoint.fields import Field
from granet.checkpoint.value import Network, check_names
from granet.errors import CheckpointError
from granet.masks.codec import ENCODINGS

KEY = "granet"
"""The one metadata key of the file."""

FORMAT = "granet checkpoint"
MAJOR, MINOR = 2, 0

DENSE = "dense"
"""Instead of an encoding: True everywhere, which takes no bytes."""

MASKED, WHOLE = "masked", "whole"
"""How the tensor of an optimizer slot is stored: active entries only, or as it is."""

MAX_SLOTS = 32
"""The most slots an optimizer may keep for one parameter. A slot of a masked parameter without active weights costs
nothing in the file, so that this bounds what a small file can make a reader allocate."""

MAX_RECIPE = 2**16
"""The longest recipe, in characters of canonical JSON; ours have less than 2,000."""


@dataclass(frozen=True, kw_only=True)
class MaskPart:
    """A mask or explored set: ``count`` entries of a parameter of ``shape``, their positions in ``encoding``."""

    shape: tuple[int, ...]
    encoding: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ExtraPart:
    """The JSON of a value of ``granet.checkpoint.extra_state``, and of which kind each of its tensors is."""

    node: Any
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """All of the header. ``weights`` and ``buffers`` list names in their order in the network.

    A mask without an entry in ``explored`` is its own explored set. A slot of the optimizer is a number or None, or
    MASKED or WHOLE where it is a tensor.
    """

    step: int
    recipe: dict[str, Any]
    network: Network
    progress: dict[str, Any]
    metrics: dict[str, Any]
    weights: tuple[str, ...]
    buffers: tuple[str, ...]
    masks: dict[str, MaskPart]
    explored: dict[str, MaskPart]
    accumulators: tuple[str, ...]
    optimizer: dict[str, dict[str, float | str | None]]
    extra_state: dict[str, ExtraPart] = field(default_factory=dict)


_FIELDS = ("format", "version", *Header.__dataclass_fields__)
_OF_VERSION_2 = "extra_state"


def render(fields: dict[str, Any]) -> str:
    """Return the text of a header with these fields; format and version are added.

    Raises:
        CheckpointError: fields that :func:`parse` would not accept.
    """
    version = [2 if _OF_VERSION_2 in fields else 1, MINOR]
    text = canonical.dumps({"format": FORMAT, "version": version, **fields}, where="checkpoint")
    parse(text, where="checkpoint")
    return text


def parse(text: str, *, where: str) -> Header:
    """Return the header in ``text``, with every field checked by itself and names against one another.

    Raises:
        CheckpointError: a text that is not a header, or of a version that this reader does not know.
    """
    known = _known(canonical.loads(text, where=where), where)
    major = known.object()["version"][0]
    fields = known.record(*(name for name in _FIELDS if major > 1 or name != _OF_VERSION_2))
    masks = {name: _mask(field) for name, field in fields["masks"].members()}
    header = Header(
        step=fields["step"].count(),
        recipe=fields["recipe"].object(),
        network=network(fields["network"].record(*NETWORK)),
        progress=fields["progress"].object(),
        metrics=fields["metrics"].object(),
        weights=fields["weights"].texts(),
        buffers=fields["buffers"].texts(),
        masks=masks,
        explored={
            # Without a mask it is refused below.
            name: _mask(field, masks[name].shape if name in masks else ())
            for name, field in fields["explored"].members()
        },
        accumulators=fields["accumulators"].texts(),
        optimizer={name: _slots(field) for name, field in fields["optimizer"].members()},
        extra_state={name: _extra(field) for name, field in fields[_OF_VERSION_2].members()} if major > 1 else {},
    )
    if major > 1 and not header.extra_state:
        raise CheckpointError("version 2 without extra state, which would be version 1", where=where)
    if len(canonical.dumps(header.recipe, where=where)) > MAX_RECIPE:
        raise CheckpointError("the recipe is too long", where=where, expected=f"at most {MAX_RECIPE} characters")
    check_names(vars(header), where=where)
    for name, slots in header.optimizer.items():
        if name not in header.masks and MASKED in slots.values():
            raise CheckpointError("a masked slot of a parameter without a mask", where=f"{where}, {short(name)}")
    return header


def _known(fields: Any, where: str) -> Field:
    """Check format and version, and leave out fields that a newer minor version added."""
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError("the header is not that of a granet checkpoint", where=where)
    major, minor = Field(fields.get("version"), f"{where}['version']").integers(2)
    if not 1 <= major <= MAJOR:
        raise CheckpointError(
            "the file is of a version of the format that this granet cannot read",
            where=where,
            got=f"{major}.{minor}",
            expected=f"1.x or {MAJOR}.x",
            remedy="install a newer granet" if major > MAJOR else None,
        )
    return Field({name: value for name, value in fields.items() if minor <= MINOR or name in _FIELDS}, where)


NETWORK = tuple(Network.__dataclass_fields__)
"""The fields that describe a network."""


def network(fields: Mapping[str, Field]) -> Network:
    """Return the network that the fields ``NETWORK`` describe.

    Raises:
        CheckpointError: a field that cannot be that of a network.
    """
    channels = fields["in_channels"].count(1)
    return Network(
        name=fields["name"].text(),
        in_channels=channels,
        classes=fields["classes"].texts(),
        image_size=fields["image_size"].count(1),
        mean=fields["mean"].floats(channels),
        std=fields["std"].floats(channels),
    )


def _mask(field: Field, shape: tuple[int, ...] | None = None) -> MaskPart:
    """Return a mask or, with the ``shape`` of its mask, an explored set."""
    fields = field.record("encoding", "count", *(("shape",) if shape is None else ()))
    return MaskPart(
        shape=fields["shape"].shape() if shape is None else shape,
        encoding=fields["encoding"].one_of((DENSE, *ENCODINGS)),
        count=fields["count"].count(),
    )


def _slots(field: Field) -> dict[str, float | str | None]:
    slots: dict[str, float | str | None] = {}
    if len(field.object()) > MAX_SLOTS:
        raise CheckpointError("too many optimizer slots", where=field.where, expected=f"at most {MAX_SLOTS}")
    for name, slot in field.members():
        if not name or "/" in name:  # which would make the names of tensors ambiguous
            raise CheckpointError("the name of an optimizer slot is empty or has a slash", where=slot.where)
        number = slot.value is None or isinstance(slot.value, int | float)
        slots[name] = slot.value if number else slot.one_of((MASKED, WHOLE))
    return slots


def _extra(field: Field) -> ExtraPart:
    tensors = tuple(extra_state.tensors_of(field))
    if [number for _, number in tensors] != list(range(len(tensors))):
        raise CheckpointError("tensors of extra state are not numbered from 0 on", where=field.where)
    return ExtraPart(node=field.value, tensors=tuple(kind for kind, _ in tensors))


def check_tensors(header: Header, stored: Mapping[str, StoredTensor], where: str) -> None:
    """Check that exactly the tensors are stored that the header implies, in the shapes and numbers it implies.

    Raises:
        CheckpointError: they are not.
    """
    shapes = _shapes(header)
    positions = {f"masks/{name}" for name, part in header.masks.items() if part.encoding in ENCODINGS}
    positions |= {f"explored/{name}" for name, part in header.explored.items() if part.encoding in ENCODINGS}
    for name in sorted(stored.keys() ^ (shapes.keys() | positions)):
        fault = "has a tensor that its header does not mention" if name in stored else "lacks a tensor of its header"
        raise CheckpointError(f"the file {fault}", where=f"{where}, tensor {short(name)}")
    for name, shape in shapes.items():
        if shape is not None and stored[name].shape != shape:
            raise CheckpointError(
                "the shape is not the one its header implies",
                where=f"{where}, tensor {short(name)}",
                got=short(stored[name].shape),
                expected=short(shape),
            )
    for name, slots in header.optimizer.items():
        shape = header.masks[name].shape if name in header.masks else ()
        for slot, kind in slots.items():
            # Otherwise values outside the mask could hide there, and there would be two ways to write one checkpoint.
            if kind == WHOLE and shape and shape == stored[f"optimizer/{slot}/{name}"].shape:
                raise CheckpointError(
                    "a slot that is shaped like its masked parameter is not stored as masked",
                    where=f"{where}, tensor {short(f'optimizer/{slot}/{name}')}",
                )
    bits = {
        f"extra/{name}/{n}"
        for name, part in header.extra_state.items()
        for n, k in enumerate(part.tensors)
        if k == "bytes"
    }
    for name in positions | bits:
        if stored[name].dtype != torch.uint8 or len(stored[name].shape) != 1:
            raise CheckpointError(
                f"{'positions' if name in positions else 'bytes'} are not a row of bytes",
                where=f"{where}, tensor {short(name)}",
            )
    for name, mask in header.masks.items():
        _check_counts(mask, header.explored.get(name), f"{where}, mask of {short(name)}")


def _shapes(header: Header) -> dict[str, tuple[int, ...] | None]:
    """Return the shape of every tensor but positions; None where any shape will do."""

    def values(name: str) -> tuple[int, ...] | None:
        mask = header.masks.get(name)
        return None if mask is None else mask.shape if mask.encoding == DENSE else (mask.count,)

    shapes: dict[str, tuple[int, ...] | None] = {f"buffers/{name}": None for name in header.buffers}
    shapes |= {f"weights/{name}": values(name) for name in header.weights}
    shapes |= {f"accumulators/{name}": header.masks[name].shape for name in header.accumulators}
    shapes |= {
        f"optimizer/{slot}/{name}": values(name) if kind == MASKED else None
        for name, slots in header.optimizer.items()
        for slot, kind in slots.items()
        if isinstance(kind, str)
    }
    shapes |= {f"extra/{name}/{n}": None for name, part in header.extra_state.items() for n in range(len(part.tensors))}
    return shapes


def _check_counts(mask: MaskPart, explored: MaskPart | None, where: str) -> None:
    size = math.prod(mask.shape)
    sound = mask.count <= size and (mask.count == size) == (mask.encoding == DENSE)
    got = f"{mask.count} of {size} active, encoded as {mask.encoding}"
    if explored is not None:
        sound &= mask.count < explored.count <= size and (explored.count == size) == (explored.encoding == DENSE)
        got += f", {explored.count} explored, encoded as {explored.encoding}"
    if not sound:
        raise CheckpointError("counts contradict each other", where=where, got=got)
