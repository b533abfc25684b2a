"""The options of the commands, one documented type each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from granet_cli import names

_WHAT, _SETTINGS, _RUN = "What to train", "Settings of the recipe", "The run"


def _option(
    flag: str,
    metavar: str | None,
    help: str,
    panel: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
    parser: Callable[[str], Any] | None = None,
) -> Any:
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=panel, autocompletion=complete, parser=parser)


def _folder(text: str) -> Path:
    """A path; an empty one, as of a shell variable that is not set, would mean the working directory."""
    if not text:
        raise typer.BadParameter("an empty path; the working directory is written .")
    return Path(text)


def _named(text: str) -> str:
    """The name of a file; an empty one would take the setting away."""
    if not text:
        raise typer.BadParameter("an empty path.")
    return text


File = Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint written by granet train.", show_default=False)]
Json = Annotated[bool, _option("--json", None, "Print JSON, and nothing else, on standard output.")]
Confirmed = Annotated[
    str | None,
    _option(
        "--model",
        "NAME",
        "Confirms a network of your own, package.module:factory. Building it runs code, and a file alone does not "
        "decide which.",
    ),
]

Recipe = Annotated[
    str | None,
    _option(
        "--recipe",
        "NAME|FILE",
        "A recipe of the catalog (granet list recipes) or a TOML file.  [default: quickstart]",
        _WHAT,
        names.complete_recipe,
    ),
]
Method = Annotated[
    str | None,
    _option(
        "--method",
        "NAME",
        "Another method (granet list methods); settings that both have are kept.",
        _WHAT,
        names.complete_method,
    ),
]
Model = Annotated[
    str | None,
    _option(
        "--model",
        "NAME",
        "Another network (granet list models), torchvision:NAME, timm:NAME, or package.module:factory for your own.",
        _WHAT,
        names.complete_model,
    ),
]
Weights = Annotated[
    str | None,
    _option(
        "--weights",
        "FILE",
        "Start from the weights in FILE: safetensors, torch.save or a granet checkpoint. A classifier of another "
        "number of classes stays as initialised.",
        _WHAT,
        parser=_named,
    ),
]
Data = Annotated[
    str | None,
    _option(
        "--data",
        "NAME|DIR",
        "A dataset (granet list datasets), or the folder where the recipe's dataset lies. Where that one needs no "
        "folder, as in quickstart, DIR is a folder of images. For both: --data DIR --set data.name=NAME. A folder "
        "that is called like a dataset is written ./NAME.",
        _WHAT,
        names.complete_data,
    ),
]
Density = Annotated[
    float | None,
    _option("--density", "SHARE", "Share of the weights active at the end: above 0, at most 1.", _SETTINGS),
]
InitialDensity = Annotated[
    float | None, _option("--initial-density", "SHARE", "That share at the start; 1 starts dense.", _SETTINGS)
]
Epochs = Annotated[
    int | None,
    _option(
        "--epochs",
        "N",
        "Length of the training. Milestones are moved in proportion; --set training.epochs=N leaves them.",
        _SETTINGS,
    ),
]
BatchSize = Annotated[int | None, _option("--batch-size", "N", "Images in a batch.", _SETTINGS)]
LearningRate = Annotated[float | None, _option("--lr", "RATE", "Learning rate after warm-up.", _SETTINGS)]
Seed = Annotated[int | None, _option("--seed", "N", "Key of everything random.", _SETTINGS)]
KeepEvery = Annotated[
    str | None,
    _option("--keep-every", "TIME", "Keep a checkpoint at every such time, 10ep or 5000it: rewind points.", _SETTINGS),
]
KeepLast = Annotated[
    int | None, _option("--keep-last", "N", "Keep the newest N checkpoints besides last and best.", _SETTINGS)
]
Precision = Annotated[
    str | None,
    _option(
        "--precision",
        "FORMAT",
        "fp32, bf16, fp16, or auto: bf16 on a GPU that has it, else fp32.",
        _SETTINGS,
        names.complete_precision,
    ),
]
Assignments = Annotated[
    list[str] | None,
    _option(
        "--set",
        "KEY=VALUE",
        "Any setting, such as optimizer.momentum=0.95; KEY= takes one away. Can be repeated.",
        _SETTINGS,
    ),
]
Out = Annotated[
    Path | None,
    _option(
        "--out",
        "DIR",
        "Folder of the run.  [default: runs/RECIPE-METHOD, numbered when that exists]",
        _RUN,
        parser=_folder,
    ),
]
Resume = Annotated[
    Path | None,
    _option(
        "--resume",
        "DIR",
        "Go on with the run in DIR. Settings may be repeated but not changed; --data DIR says where its data are now.",
        _RUN,
        parser=_folder,
    ),
]
Overwrite = Annotated[bool, _option("--overwrite", None, "Replace the run that is in --out.", _RUN)]
Download = Annotated[bool, _option("--download", None, "Fetch a published dataset that is not there yet.", _RUN)]
Device = Annotated[
    str,
    _option(
        "--device",
        "NAME",
        "cpu, cuda, cuda:N, or auto: a GPU where there is one.",
        _RUN,
        names.complete_device,
    ),
]
TensorBoard = Annotated[bool, _option("--tensorboard", None, "Write event files into DIR/tensorboard too.", _RUN)]
