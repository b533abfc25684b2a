"""The recipe of a run that takes a second: a ResNet-8 on a folder of generated images."""

from __future__ import annotations

from pathlib import Path

from granet.recipe import Recipe

SGD = 'name = "sgd"\nmomentum = 0.9'
COSINE = 'name = "cosine"\nwarmup = "2it"'


def tiny(
    images: Path, method: str, settings: str, *, training: str, optimizer: str = SGD, schedule: str = COSINE
) -> Recipe:
    """A recipe whose sections are what tests differ in; each is TOML without its heading."""
    text = f"""
        name = "tiny"
        [model]
        name = "resnet8"
        [data]
        name = "image-folder"
        directory = "{images}"
        augment = "crop-flip"
        [method]
        name = "{method}"
        {settings}
        [optimizer]
        {optimizer}
        learning_rate = 0.01
        weight_decay = 1e-4
        [schedule]
        {schedule}
        [training]
        {training}
    """
    return Recipe.from_toml(text, where="test")
