"""Matrices outside of convolutions and linear layers: masked, exported, and named where they stay dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from granet import Sparsifier, load_checkpoint
from granet.errors import UsageError
from granet.flops.matrices import find_matrices
from granet.layers.maskable import maskable
from granet.methods import RigL
from tests.commandline import Granet
from tests.products import ByHand, Crosswise, Recurrent, SelfAttention, Twofold

SEQUENCE = (5, 8)
ATTENTION = ["layer.in_proj_weight", "layer.out_proj.weight"]


class Classifier(nn.Module):
    """A body, and a linear layer on the mean over positions."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x).mean(1))
        return output


@pytest.mark.parametrize(
    ("body", "width", "weights"),
    [
        (SelfAttention(8, 2), 8, ATTENTION),
        (Crosswise(8, 4), 8, [*(f"layer.{role}_proj_weight" for role in "qkv"), "layer.out_proj.weight"]),
        (
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
            8,
            ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"],
        ),
        (
            Recurrent(nn.LSTM(8, 6, bidirectional=True, batch_first=True)),
            12,
            [f"layer.weight_{kind}_l0{way}" for way in ("", "_reverse") for kind in ("ih", "hh")],
        ),
        (Recurrent(nn.GRU(8, 6, batch_first=True)), 6, ["layer.weight_ih_l0", "layer.weight_hh_l0"]),
        (Recurrent(nn.RNN(8, 6, batch_first=True)), 6, ["layer.weight_ih_l0", "layer.weight_hh_l0"]),
        (Twofold(8, 4), 4, ["layer.weight"]),
    ],
    ids=lambda value: type(getattr(value, "layer", value)).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_other_than_convolutions_train_sparse(body: nn.Module, width: int, weights: list[str]) -> None:
    network = Classifier(body, width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    sparsifier = Sparsifier(network, optimizer, RigL(density=0.3, interval=2), total_steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(4, *SEQUENCE)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        sparsifier.step()
        assert all(not network.get_parameter(name)[~mask].any() for name, mask in sparsifier.masks.items())
    assert list(sparsifier.masks) == [*(f"body.{name}" for name in weights), "head.weight"]
    assert sparsifier.density == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("pattern", ["body.layer", "*in_proj_weight", "body.layer.in_proj_weight"])
def test_patterns_keep_them_dense(pattern: str) -> None:
    found = maskable(Classifier(SelfAttention(8, 2), 8), dense=[pattern])
    assert list(found) == ["body.layer.out_proj.weight", "head.weight"]


def test_what_cannot_be_masked_is_refused_by_name() -> None:
    frozen, computed = Recurrent(nn.LSTM(4, 4)), Recurrent(parametrizations.weight_norm(nn.GRU(4, 4), "weight_hh_l0"))
    frozen.layer.weight_hh_l0.requires_grad_(False)
    with pytest.raises(UsageError, match=r"layer.weight_hh_l0: a frozen weight cannot be masked"):
        maskable(frozen)
    with pytest.raises(
        UsageError, match=r"layer.weight_hh_l0: the weight is computed.*dense=\('layer.weight_hh_l0',\)"
    ):
        maskable(computed)


def test_parameters_that_a_pass_multiplies_by_are_found() -> None:
    network = ByHand(7, 4)
    found = find_matrices(network, (7, 4))
    assert found.sizes == {"tokens": 49, "heads": 60, "kernel": 6}
    assert list(found.bare) == ["tokens", "heads", "kernel"]
    assert list(maskable(network, also=found.bare, dense=["kernel"])) == ["tokens", "heads"]
    assert found.notes(["tokens", "heads"]) == (
        "6 of 115 weights in matrices (5.2%) are outside the masks and stay dense: kernel",
    )


def test_matrices_that_are_computed_or_frozen_are_named_and_not_masked() -> None:
    class Computing(ByHand):
        def forward(self, x: Tensor) -> Tensor:
            return (self.tokens - self.tokens.mean()) @ x @ self.heads[0]

    network = Computing(7, 4)
    network.heads.requires_grad_(False)
    found = find_matrices(network, (7, 4))
    assert (list(found.sizes), found.bare) == (["tokens", "heads"], ())

    class Choosy(ByHand):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    (note,) = find_matrices(Choosy(7, 4), (7, 4)).notes(())
    assert note.startswith("whether the network multiplies by 4 parameters of its own is unknown")


def test_a_state_of_an_earlier_version_goes_on_with_the_masks_it_has() -> None:
    def sparsifier() -> tuple[nn.Module, Any]:
        network = Classifier(SelfAttention(8, 2), 8)
        return network, Sparsifier(
            network, torch.optim.SGD(network.parameters(), lr=0.1), RigL(density=0.3, interval=2), total_steps=6
        )

    _, before = sparsifier()
    state = before.state_dict()
    for field in ("masks", "explored"):
        del state[field]["body.layer.in_proj_weight"]
    network, after = sparsifier()
    nn.init.ones_(network.body.layer.in_proj_weight)
    after.load_state_dict(state)
    assert list(after.masks) == ["body.layer.out_proj.weight", "head.weight"]
    assert bool(network.body.layer.in_proj_weight.all())
    del state["masks"]["head.weight"]
    with pytest.raises(UsageError, match=r"the state belongs to other layers"):
        sparsifier()[1].load_state_dict(state)


NETWORKS = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, 16, 7, stride=7)
        self.attention = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True, dropout=0.0)
        self.lstm = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.plain = nn.Parameter(torch.randn(16, 16) / 4)
        self.squashed = nn.Parameter(torch.randn(16, 12) / 4)
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        x = self.attention(self.patches(x).flatten(2).transpose(1, 2))
        x = self.lstm(x)[0].mean(1)
        return self.head(x @ self.plain @ torch.cos(self.squashed))
"""


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")  # torch's own, while it exports
def test_commands_mask_say_what_they_leave_out_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granet: Granet
) -> None:
    (tmp_path / "mixed_nets.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    settings = ("--model", "mixed_nets:Mixed", "--method", "static", "--density", "0.2", "--epochs", "1")
    settings += ("--batch-size", "900", "--device", "cpu")
    note = "192 of 4,424 weights in matrices (4.3%) are outside the masks and stay dense: squashed"
    file = "run/last.safetensors"

    def said(*arguments: str) -> str:
        answer = granet(*arguments)
        assert answer.code == 0, answer.err
        return " ".join((answer.out + answer.err).split())

    planned = said("plan", *settings, "--steps", "0")
    trained = said("train", *settings, "--out", "run")
    inspected = said("inspect", file, "--model", "mixed_nets:Mixed")
    assert note in planned
    assert note in trained
    assert note in inspected
    assert "of the FLOPs are products without weights, as in attention" in inspected
    masks = load_checkpoint(file).masks
    assert {"plain", "attention.self_attn.in_proj_weight", "lstm.weight_hh_l0", "lstm.weight_ih_l0_reverse"} <= set(
        masks
    )
    exported = said("export", file, "--onnx", "--out", "m.onnx", "--model", "mixed_nets:Mixed")
    assert "bit for bit its dense twin" in exported
    assert "of 4,232 maskable weights active" in exported
