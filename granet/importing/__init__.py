"""Weights and masks of other programs, as a granet checkpoint.

    checkpoint = granet.importing.import_weights("model.pth", model="resnet50", data="cifar10")
    granet.checkpoint.save("imported.safetensors", checkpoint)

``reading`` and ``torch_file`` open a file without running any of it, ``names`` sees through what wrappers and pruning
do to names, ``sizes`` reads off the tensors what the network must be built for, ``fitting`` matches the two to the last
tensor, ``masking`` says what is active and where that is known from, and ``surroundings`` what the weights alone do not
tell: classes, images, and a recipe. ``starting`` puts the weights of a file into a network that is to be trained.
"""

from granet.importing.importing import import_weights
from granet.importing.starting import Start, start_from

__all__ = ["Start", "import_weights", "start_from"]
