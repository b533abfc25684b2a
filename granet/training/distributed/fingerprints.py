"""Hashes and values that must be equal on every rank: of masks, weights, recipe, data and software."""

from __future__ import annotations

import hashlib
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from granet.checkpoint.extra_state import encode
from granet.data import SPLITS, Arrays, Dataset, Files
from granet.errors import DataError
from granet.masks.mapping import Masks
from granet.masks.packed import PackedMasks
from granet.models import extra_state
from granet.recipe import Recipe
from granet.training.distributed.agreement import Facts

_THREADS = 8
"""Files whose sizes are read at the same time, which is slow on a network file system."""

# Settings that may differ between machines.
_OWN = ("data.directory", "data.workers", "data.follow_links")


def of_masks(masks: Masks) -> Facts:
    """Return a hash of the mask of each layer. Waits for the device."""
    packed = PackedMasks.of(masks)
    bits = packed.bits.cpu().numpy()
    return {name: _hash(bits[span.start : span.end]) for name, span in packed.layout.items()}


def of_weights(model: nn.Module) -> Facts:
    """Return a hash of each parameter. Waits for the device."""
    return {name: _hash(_bytes(parameter)) for name, parameter in model.named_parameters()}


def of_extra_state(model: nn.Module) -> Facts:
    """Return a hash of the extra state of each module that has some, as a checkpoint would hold it."""
    facts = {}
    for name, value in extra_state.collect(model).items():
        node, tensors = encode(value, name)
        facts[name] = _hash(np.concatenate([np.frombuffer(repr(node).encode(), np.uint8), *map(_bytes, tensors)]))
    return facts


def of_recipe(recipe: Recipe) -> Facts:
    """Return every setting but those that may differ between machines: where the data are, how many workers."""
    return {key: str(value) for key, value in recipe.flat().items() if key not in _OWN}


def of_software(device: torch.device, precision: str) -> Facts:
    """Return versions, the kind of device and the number format."""
    from importlib.metadata import version  # which reads mail headers, and is wanted by several ranks only

    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "granet": version("granet"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "processor": platform.machine(),
        "device": device_name,
        "precision": precision,
    }


def of_data(dataset: Dataset) -> Facts:
    """Return classes, sizes, labels, and hashes of images in memory or names and sizes of files.

    Raises:
        DataError: a file cannot be read.
    """
    facts = {
        "data set": dataset.name,
        "number of classes": str(len(dataset.classes)),
        "names of the classes": _hash("\0".join(dataset.classes).encode()),
        "channels": str(dataset.channels),
        "image size": str(dataset.image_size),
        "mean and deviation": f"{dataset.mean} {dataset.std}",
    }
    facts |= {f"number of images, {split}": str(len(dataset.split(split))) for split in SPLITS}
    root = _root(dataset)
    for split in SPLITS:
        examples = dataset.split(split)
        labels = examples.labels.tolist()
        if isinstance(examples, Arrays):
            images = (_hash(image) for image in examples.images.numpy())
            facts |= {
                f"{split} image {number}": f"label {label}, {content}"
                for number, (label, content) in enumerate(zip(labels, images, strict=True))
            }
        elif isinstance(examples, Files):
            with ThreadPoolExecutor(_THREADS, "granet-sizes") as pool:
                sizes = pool.map(_size, examples.paths, chunksize=256)
                facts |= {
                    f"{split}, {str(path)[root:]}": f"label {label}, {size} bytes"
                    for path, label, size in zip(examples.paths, labels, sizes, strict=True)
                }
        else:
            which = examples.locations[:, 0]
            numbers = np.asarray(labels)
            for number, shard in enumerate(examples.shards):
                mine = which == number
                members = _hash(examples.locations[mine][:, 1:]) + _hash(numbers[mine])
                facts[f"{split}, {Path(shard.path).name}"] = f"{shard.size} bytes, members {members[:12]}"
    return facts


def _root(dataset: Dataset) -> int:
    """Return the length of the common folder of all images, whose rest is the same on every machine."""
    paths = [str(path) for split in SPLITS if isinstance(part := dataset.split(split), Files) for path in part.paths]
    return len(os.path.commonpath(paths)) + 1 if paths else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError("cannot be read", where=path, got=error.strerror) from error


def _bytes(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of a tensor in logical order."""
    whole = tensor.detach().cpu().contiguous().reshape(-1)
    found: np.ndarray[Any, np.dtype[np.uint8]] = whole.view(torch.uint8).numpy()
    return found


def _hash(data: bytes | np.ndarray[Any, Any]) -> str:
    content = data if isinstance(data, bytes) else np.ascontiguousarray(data).data
    return hashlib.blake2b(content, digest_size=8).hexdigest()
