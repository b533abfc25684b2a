"""Inputs to test an export with: random ones, and images of the kind that the network was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporters.tracing import Example
from granet.checkpoint import Network
from granet.data import Dataset, make_pipeline
from granet.data.memory_format import image_layout
from granet.randomness import generator

_ELEMENTS = 2**20
"""Numbers in a batch at the most: 128 small images, 8 of 224 pixels square."""


@dataclass(frozen=True)
class Batch:
    """Inputs of the network, all with the same batch size.

    Attributes:
        inputs: one tensor for each input.
        source: a description of the dataset, or ``random``.
    """

    inputs: Example
    source: str

    def __len__(self) -> int:
        return len(self.inputs[0])


def random_inputs(example: Example) -> Batch:
    """Return random inputs shaped like ``example`` except for the batch size, the same in every export.

    Floating-point numbers are drawn from a standard normal distribution. Other types, such as indices, may have a range
    that only the example shows, so its own rows are repeated.
    """
    count = _count(sum(tensor[0].numel() for tensor in example))
    rows = torch.arange(count) % len(example[0])
    random = generator(0, "export", "examples")
    return Batch(
        tuple(
            torch.randn(count, *tensor.shape[1:], generator=random).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor[rows]
            for tensor in example
        ),
        "random",
    )


def fits(dataset: Dataset, network: Network) -> bool:
    """Return whether the images of ``dataset`` have the channels and the size that ``network`` takes."""
    return (dataset.channels, dataset.image_size) == (network.in_channels, network.image_size)


def real_images(dataset: Dataset, network: Network) -> Batch:
    """Return images spread evenly over the validation split, normalised as in training.

    Raises:
        DataError: an image cannot be read.
    """
    split = dataset.validation
    count = min(len(split), _count(network.in_channels * network.image_size**2))
    chosen = split.select(torch.linspace(0, len(split) - 1, count).long())
    few = replace(dataset, validation=chosen)
    images = [images for images, _ in labelled_batches(few, network, "validation", count)]
    return Batch((torch.cat(images),), f"{dataset.name}, validation split")


def labelled_batches(
    dataset: Dataset, network: Network, split: str, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield contiguous images, normalised as in the training of ``network``, and labels of a split, not augmented."""
    dataset = replace(dataset, mean=network.mean, std=network.std)
    pipeline = make_pipeline(dataset, batch_size=1, device=torch.device("cpu"), seed=0, augment="none")
    for images, labels in pipeline.evaluation(split, batch_size):
        yield image_layout(images, torch.contiguous_format), labels


def _count(size: int) -> int:
    return max(8, min(128, _ELEMENTS // max(size, 1)))
