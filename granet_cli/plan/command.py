"""``granet plan``: a run before it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from granet_cli import names, options


def plan(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe of the catalog (granet list recipes) or a TOML file.  [default: quickstart]",
            autocompletion=names.complete_recipe,
        ),
    ] = None,
    method: options.Method = None,
    model: options.Model = None,
    data: options.Data = None,
    density: options.Density = None,
    initial_density: options.InitialDensity = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    precision: options.Precision = None,
    keep_every: options.KeepEvery = None,
    keep_last: options.KeepLast = None,
    assignments: options.Assignments = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Plan without the dataset, for as many training images. Published ones are known.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="With --images: the number of classes.", show_default=False)
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps to time, fewer when they are slow; 0 tries nothing out.", min=0)
    ] = 5,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Say what a run is going to be, before it is made: densities, FLOPs, sizes, memory, time and cautions.

    Takes the settings of granet train. Nothing is written. Counts of the whole network are exact. Those of a layer are
    exact where the method decides them; where training does, as in granet and gmp, they are estimates and marked so.

    \b
    Examples:
      granet plan
      granet plan cifar10-resnet50-granet --data ~/cifar10 --density 0.05
      granet plan cifar10-resnet50-rigl                      without the images, and timed with noise
      granet plan imagenet-resnet50-granet --images 1281167 --classes 1000 --steps 0
      granet plan my.toml --json | jq .seconds
    """
    from granet import training
    from granet.recipe import Recipe
    from granet.training.placeholder_dataset import PlaceholderImages
    from granet.training.plan import plan as planned
    from granet_cli import overrides
    from granet_cli.plan.view import images_of, show
    from granet_cli.render import Screen, print_json, say

    settings = {
        "model.name": model,
        "method.density": density,
        "method.initial_density": initial_density,
        "training.batch_size": batch_size,
        "training.precision": precision,
        "training.keep_every": keep_every,
        "training.keep_last": keep_last,
    }
    asked = overrides.gather(settings, assignments or (), method=method, epochs=epochs, data=data)
    overridden = overrides.apply_overrides(Recipe.load("quickstart" if recipe is None else recipe), asked)
    torch_device = training.resolve_device(device)
    for remark in overridden.remarks:
        say(remark)
    missing = images_of(overridden.recipe, images, classes)
    found = planned(
        overridden.recipe, torch_device, images=None if missing is None else PlaceholderImages(**missing), steps=steps
    )
    print_json(found.as_json()) if json else show(Screen(), found)
