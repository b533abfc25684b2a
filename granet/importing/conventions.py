"""How other programs arrange a file of weights: one table for each kind of convention, one row for each convention.

docs/importing.md lists these tables. A program that arranges its files in another way is a new row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Content = Literal["weights", "averaged weights", "masks"]


@dataclass(frozen=True)
class Container:
    """A key under which tensors by name, or a list of masks, lie next to other things, and the programs that use it."""

    key: str
    content: Content
    used_by: str


CONTAINERS = (
    Container("state_dict", "weights", "Lightning, timm, mmengine, SparseML, most scripts"),
    Container("model_state_dict", "weights", "PyTorch's tutorials"),
    Container("model", "weights", "torchvision's scripts, DeiT, fastai, detectron2"),
    Container("net", "weights", "pytorch-cifar"),
    Container("network", "weights", "scripts"),
    Container("module", "weights", "DeepSpeed"),
    Container("model_state", "weights", "SlowFast"),
    Container("current_model_state", "weights", "Lightning's WeightAveraging, whose state_dict has averaged ones"),
    Container("state_dict_ema", "averaged weights", "timm"),
    Container("model_ema", "averaged weights", "torchvision's scripts, DeiT"),
    Container("ema_state_dict", "averaged weights", "mmengine"),
    Container("ema", "averaged weights", "scripts"),
    Container("ema_model", "averaged weights", "scripts"),
    Container("shadow", "averaged weights", "scripts that average weights by name"),
    Container("masks", "masks", "scripts, by the name of weight or layer, or a list in the order of the layers"),
    Container("mask", "masks", "likewise"),
    Container("backward_masks", "masks", "RigL in PyTorch: a list in the order of the layers"),
)
"""Those further up are taken first: plain weights before averaged ones."""

WRAPPERS = {
    "module": "DataParallel, DistributedDataParallel, AveragedModel; NNI around single layers",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "checkpoint_wrapper of torch.distributed",
    "_forward_module": "Lightning Fabric",
}
"""Components that wrappers add to names, in front or where they wrap a part of the network, and whose they are."""

AVERAGED = (
    *("ema", "ema_*", "*_ema", "swa_model", "averaged_model", "average_model", "avg_model"),
    *("encoder_k", "key_encoder", "momentum_encoder", "target_encoder", "target_network"),
)
"""First components of names, as patterns, under which programs average the weights that lie elsewhere in the file."""


@dataclass(frozen=True)
class ByProduct:
    """Tensors that programs keep next to a network without their being part of it."""

    what: str
    patterns: Sequence[str]
    single_numbers: bool = False
    """Whether only tensors of one element are meant."""
    note: str = ""
    """What else is to be known about such a file."""

    def covers(self, name: str, elements: int) -> bool:
        """Whether a tensor of that name and size is meant."""
        return (elements == 1 or not self.single_numbers) and any(fnmatchcase(name, p) for p in self.patterns)


BY_PRODUCTS = (
    ByProduct(
        "counters of weight averaging",
        ("n_averaged", "*.n_averaged", "initted", "step", "decay", "num_updates"),
        single_numbers=True,
    ),
    ByProduct(
        "counters of a profiler",
        ("total_ops", "total_params", "*.total_ops", "*.total_params"),
        single_numbers=True,
    ),
    ByProduct("averaged weights", (*(f"{component}.*" for component in AVERAGED), "ema_*")),
    ByProduct("queues of contrastive learning", ("queue", "queue_*", "*.queue", "*.queue_ptr", "queue[0-9]*")),
    ByProduct(
        "the loss",
        (
            *("criterion.*", "*_criterion.*", "criteri[ao][0-9].*", "criterions.*"),
            *("loss.*", "*_loss.*", "loss_f*.*", "losses.*"),
            *("class_weight", "class_weights", "pos_weight", "loss_weight", "loss_weights"),
        ),
    ),
    ByProduct(
        "metrics",
        (
            *("*metric.*", "*metrics.*", "acc.*", "acc[0-9].*", "*_acc.*", "*_acc[0-9].*", "*accuracy.*"),
            *("*auroc.*", "f1.*", "*_f1.*", "*precision.*", "*recall.*"),
            *("*.tp", "*.fp", "*.tn", "*.fn", "*.confmat", "*.mean_value"),
            *("train.*", "val.*", "valid.*", "validation.*", "test.*"),
        ),
    ),
    ByProduct(
        "auxiliary classifiers of GoogLeNet and Inception, which only training uses",
        ("aux1.*", "aux2.*", "AuxLogits.*"),
        note="the weights of googlenet and inception_v3 that torchvision published are for other images than "
        "ImageNet's usual ones: give --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5",
    ),
    ByProduct(
        "auxiliary classifiers, which only training uses",
        ("aux.*", "aux_*.*", "aux[0-9].*", "auxiliary*.*", "auxlogits.*"),
    ),
)
"""Left out, with a remark, where the network has no tensor of that name. Patterns are those of ``fnmatch``."""


@dataclass(frozen=True)
class MaskLayout:
    """The names of a weight and its mask, as regular expressions for whole names.

    Groups joined by a dot are the plain name of the weight, or with ``layer`` that of its layer. ``weight`` is None
    where the weight has its plain name.
    """

    weight: str | None
    mask: str
    used_by: str
    layer: bool = False

    def plain_name(self, pattern: str, name: str) -> str | None:
        """Return the plain name of the weight that ``name`` is of by ``pattern``, or None."""
        if (found := re.fullmatch(pattern, name)) is None:
            return None
        return ".".join((*filter(None, found.groups()), *(("weight",) if self.layer else ())))


MASK_LAYOUTS = (
    MaskLayout(r"(.+)_orig", r"(.+)_mask", "torch.nn.utils.prune"),
    MaskLayout(
        r"(?:(.+)\.)?parametrizations\.([^.]+)\.original",
        r"(?:(.+)\.)?parametrizations\.([^.]+)\.0\.mask",
        "torch.ao.pruning",
    ),
    MaskLayout(None, r"(.+)_mask", "layers with masks as buffers: SynFlow, SNIP, NNI"),
    MaskLayout(None, r"(.+)\.mask", "layers with one mask as a buffer", layer=True),
)

OTHER_ARCHIVES = {
    "*/constants.pkl": ("a TorchScript program", "open it with torch.jit.load, and save its state dict"),
    "*/archive_format": ("a program of torch.export", "open it with torch.export.load, and save its state dict"),
    "*.npy": ("arrays of NumPy", "save them by name as tensors, made by torch.from_numpy"),
}
"""Zip archives of other kinds than those of ``torch.save``: by an entry, what they are and what to do with them."""

STAND_INS = {
    "argparse.Namespace": "arguments: timm, torchvision's scripts, DeiT",
    "pathlib.PosixPath": "paths among them",
    "pathlib._local.PosixPath": "likewise",
    "numpy.core.multiarray.scalar": "an accuracy",
    "numpy._core.multiarray.scalar": "likewise",
    "numpy.dtype": "its type",
    "mmengine.logging.history_buffer.HistoryBuffer": "curves: mmengine",
    "lightning.fabric.utilities.data.AttributeDict": "settings: Lightning",
    "lightning_fabric.utilities.data.AttributeDict": "likewise",
    "pytorch_lightning.utilities.parsing.AttributeDict": "likewise",
}
"""Classes whose objects programs pickle next to weights. None is imported: an empty object takes the place of each."""
