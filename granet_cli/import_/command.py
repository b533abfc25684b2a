"""``granet import``: weights and masks of other programs as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granet_cli import names, options
from granet_cli.options import option

_NETWORK, _FILE = "The network", "Where it is in the file"
_IMAGES, _MASKS = "The images that it is for", "Which weights are active"


def import_weights(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Weights: a safetensors file or one of torch.save.", show_default=False),
    ],
    model: Annotated[
        str,
        option(
            "The network (granet list models), torchvision:NAME, timm:NAME, or package.module:factory for "
            "your own, whose code is run.",
            metavar="NAME",
            panel=_NETWORK,
            complete=names.complete_model,
            show_default=False,
        ),
    ],
    out: Annotated[Path, option("The checkpoint to write.", "-o", "--out", metavar="OUT", show_default=False)],
    by_order: Annotated[
        bool,
        option(
            "Go by the order of the tensors instead of their names, for a network that is built alike and "
            "named differently. Kinds and shapes still have to agree one by one.",
            "--by-order",
            panel=_NETWORK,
        ),
    ] = False,
    key: Annotated[
        str | None,
        option(
            "The key under which the state dict lies in a file of torch.save, or several joined by dots.  "
            "[default: a known one, such as state_dict]",
            metavar="KEY",
            panel=_FILE,
        ),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        option(
            "What stands in front of the network's names in the file; all other tensors are left out. Several "
            "times for parts that lie in several places.  [default: what all of the network's names have]",
            metavar="NAME",
            panel=_FILE,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        option(
            "Tensors that are not the network's: a name, what a name begins with, or a pattern with * and ?. "
            "Several times for several.",
            metavar="PATTERN",
            panel=_FILE,
        ),
    ] = None,
    data: Annotated[
        str | None,
        option(
            "A dataset (granet list datasets) or a folder of images; it says all that is below.",
            metavar="NAME|DIR",
            panel=_IMAGES,
            complete=names.complete_data,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        option(
            "How many classes, or their names.  [default: those of --data, or as many as the weights have]",
            metavar="N|NAME,...",
            panel=_IMAGES,
        ),
    ] = None,
    in_channels: Annotated[
        int | None,
        option(
            "Channels of the images.  [default: those of --data, or as many as the weights take]",
            metavar="N",
            min=1,
            panel=_IMAGES,
        ),
    ] = None,
    image_size: Annotated[
        int | None, option("Height and width in pixels; not needed with --data.", metavar="N", min=1, panel=_IMAGES)
    ] = None,
    mean: Annotated[
        str | None,
        option(
            "Mean of each channel of images in 0 to 1.  [default: that of --data, or for colours ImageNet's]",
            metavar="X,...",
            panel=_IMAGES,
        ),
    ] = None,
    std: Annotated[
        str | None, option("Standard deviation of each channel; likewise.", metavar="X,...", panel=_IMAGES)
    ] = None,
    follow_links: options.FollowLinks = False,
    mask_file: Annotated[
        Path | None,
        option(
            "Masks, 0 or 1 by the name of the weight or layer or as a list in the order of the layers, in a file of "
            "the same kinds.",
            metavar="FILE",
            panel=_MASKS,
        ),
    ] = None,
    infer_masks: Annotated[
        bool,
        option(
            "Take weights that are zero for pruned. That is a guess, and the checkpoint says so.",
            "--infer-masks",
            panel=_MASKS,
        ),
    ] = False,
    overwrite: options.Replace = False,
    json: options.Json = False,
) -> None:
    """Make a checkpoint from the weights of another program.

    It reads state dicts, bare or as Lightning, timm, torchvision's scripts and others save them, and masks as
    torch.nn.utils.prune, NNI and others keep them; docs/importing.md lists what is known. Nothing in a file is run.
    Counters, losses, metrics and auxiliary classifiers are left out with a remark. A file that does not fit the
    network to the last tensor is refused, and each difference is named.

    \b
    Examples:
      granet import model_final.pth --model resnet50 --data cifar10 --infer-masks --by-order -o imported.safetensors
      granet import pruned.pt --model torchvision:resnet18 --image-size 224 -o imported.safetensors
      granet import w.safetensors --mask-file masks.pt --model vgg19 --data ./photos --image-size 32 -o x.safetensors
    """
    from granet.checkpoint import save
    from granet.importing import import_weights as read
    from granet.masks.mapping import active, density, size
    from granet_cli import overrides, render
    from granet_cli.targets import check_target

    check_target(out, file, *([mask_file] if mask_file is not None else []), overwrite=overwrite)
    folder = overrides.directory(data) if data is not None else None
    checkpoint = read(
        file,
        model=model,
        classes=_classes(classes),
        in_channels=in_channels,
        image_size=image_size,
        mean=None if mean is None else options.parse_numbers(mean, "--mean", "0.49,0.48,0.45", number=float),
        std=None if std is None else options.parse_numbers(std, "--std", "0.25,0.24,0.26", number=float),
        data=data if folder is None else None,
        directory=folder,
        follow_links=follow_links,
        mask_file=mask_file,
        infer_masks=infer_masks,
        by_order=by_order,
        key=key,
        prefix=prefix or (),
        ignore=ignore or (),
    )
    save(out, checkpoint)
    note, network = checkpoint.metrics["imported"], checkpoint.network
    for remark in note["remarks"]:
        render.say(f"note: {remark}")
    masks, written = checkpoint.masks, out.stat().st_size
    if json:
        render.print_json(
            {"out": str(out), "bytes": written, "model": network.name, "in_channels": network.in_channels}
            | {"classes": network.classes, "image_size": network.image_size, "data": checkpoint.recipe.data.name}
            | {"parameters": size(masks), "active": sum(active(masks).values()), "density": density(masks), **note}
        )
        return
    facts = f"{render.size(written)}, {network.name}, density {density(masks):.4f}, masks: {note['source']}"
    typer.echo(render.printable(f"{out}: {facts}"))


def _classes(text: str | None) -> int | tuple[str, ...] | None:
    """A number, or names; a name that is a number is one among several."""
    if text is None:
        return None
    # More digits than an impossible number has need not be read.
    return int(text[:10]) if text.isascii() and text.isdigit() else tuple(name.strip() for name in text.split(","))
