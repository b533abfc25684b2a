"""Weights and masks of other programs, as a granet checkpoint.

    checkpoint = granet.importing.import_weights("model.pth", model="resnet50", data="cifar10")
    granet.checkpoint.save("imported.safetensors", checkpoint)

``conventions`` has one table for each way in which programs arrange their files. ``torch_file`` and ``sharded`` open
a file without running any of it, ``containers`` finds the tensors in it, ``names`` and ``prefixes`` undo what stands
in front of names, ``mask_layouts`` splits masks off, ``leftovers`` leaves out what is not the network's, and
``reading`` does all of that in order. ``sizes`` infers what the network must be built for, ``match_tensors`` matches
tensors with it, and ``advice`` says what to try where they do not fit. ``masking`` chooses the masks, and
``data_and_recipe`` adds what weights do not contain: classes, images and a recipe. ``initial_weights`` loads the
weights of a file into a network to be trained.
"""

from granet.importing.importing import import_weights
from granet.importing.initial_weights import StartingWeights, start_from

__all__ = ["StartingWeights", "import_weights", "start_from"]
