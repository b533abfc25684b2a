"""Export of networks parts of which see no image: what they compute is a constant of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from exporters.constant_parts import constant_layers
from exporters.onnx_export import ExportReport, ExportSettings, export
from granet.checkpoint import Checkpoint, load
from granet.errors import ModelError
from tests import constant_networks as networks
from tests.export_networks import CHANNELS, SIZE, saved


def checkpoint(folder: Path, factory: type[nn.Module]) -> Checkpoint:
    return load(saved(folder, factory))


def exported(value: Checkpoint, folder: Path, **settings: Any) -> ExportReport:
    return export(value, folder / "m.onnx", ExportSettings(**settings), factory=value.network.name)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (networks.PositionBias, {"hidden", "bias"}),
        (networks.MadeFilters, {"hidden", "filters"}),
        (networks.Token, {"projection"}),
        (networks.TokenOfTheBatch, set()),
        (networks.SharedToken, set()),
        (networks.MapOfPlaces, {"conv"}),
        (networks.Resampled, {"projection"}),
        (networks.Embedded, {"places", "projection"}),
        (networks.Causal, set()),
        (networks.Standardised, set()),
    ],
)
def test_layers_that_multiply_by_constants_only_are_found(network: type[nn.Module], expected: set[str]) -> None:
    images, free = torch.zeros(2, CHANNELS, SIZE, SIZE), {0: torch.export.Dim("batch")}
    program = torch.export.export(network().eval(), (images,), dynamic_shapes=(free,))
    found = {name.removesuffix(".weight") for name in constant_layers(program) if name.endswith(".weight")}
    assert found == expected


@pytest.mark.parametrize(
    ("network", "settings"),
    [(networks.PositionBias, {}), (networks.MadeFilters, {"precision": "fp16", "compute": "fp16"})],
)
def test_what_a_constant_part_computes_is_stored_with_a_remark(
    tmp_path: Path, network: type[nn.Module], settings: dict[str, Any]
) -> None:
    value = checkpoint(tmp_path, network)
    seen = {name: mask for name, mask in value.masks.items() if name.startswith(("patches", "classifier"))}
    report = exported(value, tmp_path, **settings)
    assert report.parameters == sum(mask.numel() for mask in seen.values())
    assert report.active == sum(int(mask.sum()) for mask in seen.values())
    constant = sum(mask.numel() for name, mask in value.masks.items() if name not in seen)
    remark = next(remark for remark in report.remarks if "what they compute" in remark)
    assert f"{constant:,} in all" in remark
    assert "hidden.weight" in remark


def test_a_constant_part_that_the_graph_keeps_is_proved_like_every_other_layer(tmp_path: Path) -> None:
    value = checkpoint(tmp_path, networks.LargePlaces)
    report = exported(value, tmp_path)
    assert report.parameters == sum(mask.numel() for mask in value.masks.values())
    assert not [remark for remark in report.remarks if "what they compute" in remark]


def test_a_layer_that_multiplies_images_by_something_else_than_its_weight_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"projection.weight: a masked weight is not in the exported graph"):
        exported(checkpoint(tmp_path, networks.Standardised), tmp_path)
