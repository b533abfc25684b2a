"""What the axes of a weight mean, held against what the layers themselves compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from granet.layers.axes import WeightAxes

LAYERS = {
    "linear": nn.Linear(6, 4, bias=False),
    "conv": nn.Conv2d(6, 4, 3, padding=1, bias=False),
    "grouped": nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False),
    "depthwise": nn.Conv1d(6, 6, 3, padding=1, groups=6, bias=False),
    "transposed": nn.ConvTranspose2d(6, 4, 3, padding=1, bias=False),
    "transposed, grouped": nn.ConvTranspose1d(6, 4, 3, padding=1, groups=2, bias=False),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@every_layer
def test_links_are_the_inputs_that_an_output_depends_on(layer: nn.Linear) -> None:
    axes = WeightAxes.of(layer)
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    inputs, outputs = axes.channels(layer.weight.shape)
    links = torch.block_diag(*(group.float() for group in axes.links(mask))).bool()
    assert links.shape == (outputs, inputs)
    with torch.no_grad():
        layer.weight.copy_(mask)
    size = [5] * (layer.weight.dim() - 2)
    for number in range(inputs):
        images = torch.zeros(1, inputs, *size)
        images[:, number] = 1.0
        seen = layer(images).reshape(outputs, -1).ne(0).any(1)
        assert torch.equal(seen, links[:, number])


@every_layer
def test_the_axis_of_outputs_has_as_many_as_each_group(layer: nn.Linear) -> None:
    axes, shape = WeightAxes.of(layer), layer.weight.shape
    assert {axes.outputs, axes.inputs} == {0, 1}
    assert axes.channels(shape) == (6, shape[axes.outputs] * (axes.groups if axes.transposed else 1))
