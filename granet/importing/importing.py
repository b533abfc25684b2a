"""Import a file of another program as a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from granet import models
from granet.checkpoint import Checkpoint, Network
from granet.errors import UsageError
from granet.importing import advice, data_and_recipe, masking, match_tensors, names, reading, sizes
from granet.layers import mask_effect
from granet.layers.maskable import maskable
from granet.masks.mapping import density
from granet.models import extra_state


def import_weights(
    path: str | os.PathLike[str],
    *,
    model: str,
    classes: int | Sequence[str] | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: str | None = None,
    directory: Path | None = None,
    follow_links: bool = False,
    mask_file: str | os.PathLike[str] | None = None,
    infer_masks: bool = False,
    by_order: bool = False,
    key: str | None = None,
    prefix: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Checkpoint:
    """Return the weights in a file of another program as a checkpoint at step 0, to evaluate, inspect and train on.

    Understood are safetensors files and files of ``torch.save``, arranged in any of the ways that
    :mod:`granet.importing.conventions` lists: a state dict, bare or next to other things, with names as wrappers
    change them, with masks of ``torch.nn.utils.prune`` and others, dense or sparse. Optimizer state and known
    by-products of training are left out. Nothing in the file is run.

    The recipe is called "imported"; its method is ``static`` with the density of the masks, or ``dense`` when every
    weight is active (docs/decisions/0005). ``metrics["imported"]`` says where weights and masks are from, and is
    kept when the checkpoint is trained on: ``file``, ``format``, ``masks`` ("none", "given" or "inferred"), ``source``
    of the masks in words, and ``remarks`` on everything that was left out, renamed or converted.

    Args:
        path: the file.
        model: the network, a name that ``granet.models.build`` understands. Naming ``package.module:factory`` runs it.
        classes: their number or names; left out they are those of the dataset, or counted in the weights.
        in_channels: channels of the images; likewise.
        image_size: height and width of the images in pixels; left out it is that of the dataset.
        mean, std: of the channels of images in [0, 1]; left out they are those of the dataset, or for colour images
            ImageNet's.
        data: a dataset of the catalog, for the four above.
        directory: the folder where it lies; alone, an image folder.
        follow_links: whether links in it may lead out of it.
        mask_file: a file of the same kinds with masks: bool, or numbers that are all 0 or 1, by the names of weights
            or layers. Weights outside of them become zero.
        infer_masks: take weights that are zero for pruned. A weight that was active and zero becomes inactive.
        by_order: go by the order of the tensors, not by their names: for networks that are built alike and named
            differently. Only the order of ``torch.save`` means something.
        key: the key under which the state dict lies, or several joined by dots; left out, it is a known one.
        prefix: what is in front of the network's names in the file; everything else is left out. Left out, it is
            what all names of the network have in front.
        ignore: tensors that are not the network's: patterns as for ``fnmatch``, names, or beginnings of names.

    Raises:
        UsageError: arguments that contradict each other or the file, or something that has to be given.
        FileError: a file that cannot be read.
        CheckpointError: a damaged file, or masks that do not belong to the weights.
        ModelError: the network cannot be built, or does not fit the weights; every difference is named.
        DataError: ``directory`` does not hold an image folder.
    """
    known = data_and_recipe.of_dataset(data, directory, image_size, follow_links=follow_links).with_asked(
        classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean if mean is None else tuple(map(float, mean)),
        std=std if std is None else tuple(map(float, std)),
    )
    given = _given(model, known)
    probed = models.outline(model, **sizes.placeholder_sizes(given))
    selection = reading.Selection(key=key, prefixes=tuple(prefix), ignore=tuple(ignore))
    file = reading.read(path, probed, selection)
    if by_order and file.format == "safetensors":
        raise UsageError("a safetensors file has no order", where=file.where, remedy="leave out --by-order")
    renaming = names.in_order(file.tensors, probed, file.where) if by_order else {}
    matched = ("matched by order, not by name",) if by_order else ()
    tensors = {renaming.get(name, name): tensor for name, tensor in file.tensors.items()}
    built_for = sizes.infer_sizes(model, given, tensors)
    outline = models.outline(model, **built_for)
    extra, remarked = _extra_state(model, outline, built_for, tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}

    def advise(missing: Sequence[str], strangers: Sequence[str]) -> str:
        if missing or strangers:
            return advice.on_names(file, probed, missing, strangers)
        return advice.on_classes(model, given, tensors)

    fitted = match_tensors.fit(tensors, outline, model, file.where, advice=advise)

    can_be_masked = maskable(outline)
    ours = {name: first for name, first in fitted.names.items() if first in fitted.weights}
    chosen = masking.choose(
        file,
        mask_file,
        {name: fitted.weights[name] for name in can_be_masked} if infer_masks else None,
        called={**ours, **{other: ours[name] for other, name in renaming.items() if name in ours}},
        order=list(can_be_masked),
    )
    weights, masks, masked = masking.apply(chosen, fitted.weights, can_be_masked)
    useless = mask_effect.remarks(outline, [name for name, mask in masks.items() if not mask.all()])
    channels = built_for["in_channels"]
    mean, std, assumed = known.normalisation(channels)
    checkpoint = Checkpoint(
        weights=weights,
        masks=masks,
        buffers=fitted.buffers,
        explored={name: mask.clone() for name, mask in masks.items()},
        optimizer={},
        accumulators={},
        recipe=data_and_recipe.recipe(model, known, density(masks)),
        step=0,
        network=Network(
            name=model,
            in_channels=channels,
            classes=known.classes or data_and_recipe.numbered(built_for["classes"]),
            image_size=built_for["image_size"],
            mean=mean,
            std=std,
        ),
        progress={},
        metrics={
            "epochs": [],
            "updates": [],
            "imported": {
                "file": Path(file.where).name,
                "format": file.format,
                "masks": chosen.origin,
                "source": chosen.source,
                "remarks": [*file.remarks, *matched, *fitted.remarks, *remarked, *masked, *useless, *assumed],
            },
        },
        extra_state=extra,
    )
    models.from_checkpoint(checkpoint, factory=model)  # fails if the network does not take such images
    return checkpoint


def _given(model: str, known: data_and_recipe.ImportedImages) -> dict[str, int]:
    """Return the sizes that are known without the weights.

    Raises:
        UsageError: the image size is not known.
    """
    if known.image_size is None:
        raise UsageError(
            "the size of the images is not known", where=model, remedy="add --image-size, or --data with a dataset"
        )
    given = {"image_size": known.image_size}
    if known.in_channels is not None:
        given["in_channels"] = known.in_channels
    if known.classes is not None:
        given["classes"] = len(known.classes)
    return given


def _extra_state(
    model: str, outline: nn.Module, built_for: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the extra state of the modules, as in the file or else as they are made, and remarks."""
    if not extra_state.stateful(outline):
        return {}, ()
    network = models.build(model, trial=False, **built_for)
    return extra_state.chosen(network, tensors)
