"""Random scores that are never held are the same however they are read, and as random as any."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from granet.masks import kernels
from granet.masks.layout import Layout, flat
from granet.masks.packed import PackedMasks
from granet.masks.random_scores import UniformScores
from granet.masks.selection import best

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
"""The first numbers of SplitMix64 from 1234567 on, as its reference implementations give them."""


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test twice: with what a CPU is given, and with what any other device is."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    return


def test_scores_are_the_highest_bits_of_splitmix64() -> None:
    scores = UniformScores({"layer": 1234567}, {"layer": torch.zeros(5)})
    assert scores["layer"].tolist() == [(number >> 40) / 2**24 for number in PUBLISHED]
    large = UniformScores({"layer": 2**63 - 1}, {"layer": torch.zeros(3)})["layer"]
    assert bool(((large >= 0) & (large < 1)).all())


@EXAMPLES
@given(
    shape=st.sampled_from([(7,), (5, 3), (4, 3, 3, 3), (300, 250), (40, 30, 9, 9)]),
    last=st.booleans(),
    start=st.integers(0, 100_000),
    count=st.integers(0, 80_000),
    step=st.integers(1, 5),
)
def test_any_slice_is_that_of_the_whole(shape: tuple[int, ...], last: bool, start: int, count: int, step: int) -> None:
    like = torch.zeros(shape)
    if last and len(shape) == 4:
        like = like.to(memory_format=torch.channels_last)
    scores, places = UniformScores({"layer": 9}, {"layer": like}), Layout.of({"layer": like})
    plain = UniformScores({"layer": 9}, {"layer": torch.zeros(shape)})["layer"]
    assert torch.equal(scores["layer"], plain)
    entries, whole = scores.flattened(places)["layer"], flat(plain, places["layer"].order)
    assert torch.equal(entries[:], whole)
    assert torch.equal(entries[start : start + count : step], whole[start : start + count : step])


def test_scores_are_uniform_and_unrelated_between_keys_and_neighbours() -> None:
    count = 2**20
    one, other = UniformScores({"a": 1, "b": 2}, dict.fromkeys("ab", torch.zeros(count))).values()
    # Three standard errors of each figure.
    assert abs(float(one.mean()) - 0.5) < 3 * (1 / 12 / count) ** 0.5
    assert abs(float(one.double().var()) - 1 / 12) < 3 * (1 / 180 / count) ** 0.5
    expected = count / 256
    chi = float(((torch.histc(one, 256, 0, 1) - expected) ** 2 / expected).sum())
    assert abs(chi - 255) < 3 * (2 * 255) ** 0.5
    for left, right in ((one, other), (one[1:], one[:-1]), (one[4608:], one[:-4608])):
        assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) < 3 / count**0.5


@pytest.mark.parametrize("inactive", [False, True])
def test_what_is_selected_by_them_is_what_is_selected_by_a_tensor(inactive: bool) -> None:
    like = {"small": torch.zeros(50, 20), "large": torch.zeros(300, 250), "conv": torch.zeros(90, 90, 3, 3)}
    like["conv"] = like["conv"].to(memory_format=torch.channels_last)
    scores = UniformScores({name: place for place, name in enumerate(like)}, like)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(tensor.shape, generator=generator) < 0.5 for name, tensor in like.items()}
    eligible = PackedMasks.of(masks, Layout.of(like))
    budgets = {"small": 100, "large": 20_000, "conv": 1}
    chosen = best(scores, eligible, budgets, inactive=inactive)
    held = best({name: tensor.clone() for name, tensor in scores.items()}, eligible, budgets, inactive=inactive)
    assert chosen == held
    assert chosen.counts == budgets
