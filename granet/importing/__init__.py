"""Weights and masks of other programs, as a granet checkpoint.

    checkpoint = granet.importing.import_weights("model.pth", model="resnet50", data="cifar10")
    granet.checkpoint.save("imported.safetensors", checkpoint)

``reading`` and ``torch_file`` open a file without running any of it, ``names`` undoes what wrappers and pruning do to
names, ``sizes`` infers what the network must be built for, ``match_tensors`` matches tensors with the network,
``masking`` finds the masks, and ``data_and_recipe`` adds what weights do not contain: classes, images and a recipe.
``initial_weights`` loads the weights of a file into a network that is to be trained.
"""

from granet.importing.importing import import_weights
from granet.importing.initial_weights import StartingWeights, start_from

__all__ = ["StartingWeights", "import_weights", "start_from"]
