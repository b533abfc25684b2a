"""The options of the commands, one documented type each."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from granet_cli import names

Number = TypeVar("Number", int, float)

_WHAT, _SETTINGS, _RUN = "What to train", "Settings of the recipe", "The run"


def option(
    help: str,
    *flags: str,
    panel: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
    **settings: Any,
) -> Any:
    """Declare an option of a command.

    Args:
        help: the text of the help page.
        flags: its names, where they are not that of the parameter.
        panel: the group of the help page that it stands in.
        complete: completes its value in the shell.
        settings: any other settings of ``typer.Option``.
    """
    return typer.Option(*flags, help=help, rich_help_panel=panel, autocompletion=complete, **settings)


def plot(what: str, panel: str | None = None) -> Any:
    """Declare ``--plot FILE`` for a command that can draw ``what``."""
    help = f"Draw {what}, as .svg, .png or .pdf."
    return option(help, metavar="FILE", panel=panel, show_default=False)


def parse_numbers(
    text: str, flag: str, example: str, *, number: type[Number], separator: str = ","
) -> tuple[Number, ...]:
    """Parse the value of ``flag``: numbers between separators, each as ``number`` reads it.

    Raises:
        UsageError: it is something else.
    """
    from granet.errors import UsageError

    try:
        return tuple(number(part) for part in text.split(separator))
    except ValueError:
        raise UsageError("not a list of numbers", where=flag, got=repr(text), expected=f"such as {example}") from None


class PruningScope(StrEnum):
    """Among which weights the smallest are pruned."""

    GLOBAL = "global"
    UNIFORM = "uniform"


def _folder(text: str) -> Path:
    """A path; an empty one, as of a shell variable that is not set, would mean the working directory."""
    if not text:
        raise typer.BadParameter("the path is empty; write . for the working directory")
    return Path(text)


def _named(text: str) -> str:
    """The name of a file; an empty one would take the setting away."""
    if not text:
        raise typer.BadParameter("the path is empty.")
    return text


File = Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint written by granet train.", show_default=False)]
Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Folders of runs, of rewinds in rounds, folders that hold such folders, or patterns.",
        show_default=False,
    ),
]
Json = Annotated[bool, option("Print JSON, and nothing else, on standard output.", "--json")]
Replace = Annotated[bool, option("Replace the file to write if it is there.", "--overwrite")]
FollowLinks = Annotated[
    bool,
    option(
        "Allow links in a folder of images or shards that lead out of it, as ImageNet-100 is made.", "--follow-links"
    ),
]
MovedData = Annotated[
    Path | None, option("Where the data are now, when they moved.", "--data", metavar="DIR", panel=_RUN)
]
Confirmed = Annotated[
    str | None,
    option(
        "Allow the code of a network of your own, package.module:factory, that the file names.",
        "--model",
        metavar="NAME",
    ),
]
ConfirmedMethod = Annotated[
    str | None,
    option(
        "Allow the code of a method of your own, package.module:Class, that the file names.",
        "--method",
        metavar="NAME",
    ),
]

Recipe = Annotated[
    str | None,
    option(
        "A recipe of the catalog (granet list recipes) or a TOML file.  [default: quickstart]",
        "--recipe",
        metavar="NAME|FILE",
        panel=_WHAT,
        complete=names.complete_recipe,
    ),
]
Method = Annotated[
    str | None,
    option(
        "Another method (granet list methods), or package.module:Class for your own; settings that both have are kept. "
        "A method of your own that a recipe or a run names has to be confirmed here.",
        "--method",
        metavar="NAME",
        panel=_WHAT,
        complete=names.complete_method,
    ),
]
Model = Annotated[
    str | None,
    option(
        "Another network (granet list models), torchvision:NAME, timm:NAME, or package.module:factory for your own.",
        "--model",
        metavar="NAME",
        panel=_WHAT,
        complete=names.complete_model,
    ),
]
Weights = Annotated[
    str | None,
    option(
        "Start from the weights in FILE: safetensors, torch.save or a granet checkpoint. A classifier of "
        "another number of classes stays as initialised.",
        "--weights",
        metavar="FILE",
        panel=_WHAT,
        parser=_named,
    ),
]
Data = Annotated[
    str | None,
    option(
        "A dataset (granet list datasets), or the folder where the recipe's dataset lies. Where that one "
        "needs no folder, as in quickstart, DIR is a folder of images. For both: --data DIR --set "
        "data.name=NAME. A folder that is called like a dataset is written ./NAME.",
        "--data",
        metavar="NAME|DIR",
        panel=_WHAT,
        complete=names.complete_data,
    ),
]
Density = Annotated[
    float | None,
    option(
        "Share of the weights active at the end: above 0, at most 1.", "--density", metavar="SHARE", panel=_SETTINGS
    ),
]
InitialDensity = Annotated[
    float | None,
    option(
        "Share of the weights active at the start; 1 starts dense.",
        "--initial-density",
        metavar="SHARE",
        panel=_SETTINGS,
    ),
]
Epochs = Annotated[
    int | None,
    option(
        "Length of the training. Milestones are moved in proportion; --set training.epochs=N leaves them.",
        "--epochs",
        metavar="N",
        panel=_SETTINGS,
    ),
]
BatchSize = Annotated[int | None, option("Images in a batch.", "--batch-size", metavar="N", panel=_SETTINGS)]
LearningRate = Annotated[float | None, option("Learning rate after warm-up.", "--lr", metavar="RATE", panel=_SETTINGS)]
Seed = Annotated[
    int | None,
    option(
        "Seed of all random choices: weights, masks, data order, augmentation.", "--seed", metavar="N", panel=_SETTINGS
    ),
]
KeepEvery = Annotated[
    str | None,
    option(
        "Keep a checkpoint at every such time, 10ep or 5000it: rewind points.",
        "--keep-every",
        metavar="TIME",
        panel=_SETTINGS,
    ),
]
KeepLast = Annotated[
    int | None,
    option("Keep the newest N checkpoints besides last and best.", "--keep-last", metavar="N", panel=_SETTINGS),
]
Precision = Annotated[
    str | None,
    option(
        "fp32, bf16, fp16, or auto: bf16 on a GPU that has it, else fp32.",
        "--precision",
        metavar="FORMAT",
        panel=_SETTINGS,
        complete=names.complete_precision,
    ),
]
Assignments = Annotated[
    list[str] | None,
    option(
        "Any setting, such as optimizer.momentum=0.95; KEY= takes one away. Can be repeated.",
        "--set",
        metavar="KEY=VALUE",
        panel=_SETTINGS,
    ),
]
Out = Annotated[
    Path | None,
    option(
        "Folder of the run.  [default: runs/RECIPE-METHOD, numbered when that exists]",
        "--out",
        metavar="DIR",
        panel=_RUN,
        parser=_folder,
    ),
]
Resume = Annotated[
    Path | None,
    option(
        "Resume the run in DIR. Settings may be repeated but not changed; --data DIR says where its data are now.",
        "--resume",
        metavar="DIR",
        panel=_RUN,
        parser=_folder,
    ),
]
Overwrite = Annotated[bool, option("Replace the run that is in --out.", "--overwrite", panel=_RUN)]
NoExportCheck = Annotated[
    bool,
    option(
        "Do not find out at the start whether granet export will take the network; see docs/onnx.md.",
        "--no-export-check",
        panel=_RUN,
    ),
]
Download = Annotated[bool, option("Fetch a published dataset that is not there yet.", "--download", panel=_RUN)]
Device = Annotated[
    str,
    option(
        "cpu, cuda, cuda:N, or auto: a GPU where there is one.",
        "--device",
        metavar="NAME",
        panel=_RUN,
        complete=names.complete_device,
    ),
]
TensorBoard = Annotated[bool, option("Write event files into DIR/tensorboard too.", "--tensorboard", panel=_RUN)]
