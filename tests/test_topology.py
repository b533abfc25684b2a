"""Prune, drop, grow and swap: exact counts, nested masks, no empty layer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from granet.errors import UsageError
from granet.masks.mapping import active, density
from granet.masks.packed import PackedMasks
from granet.topology import TopologyUpdate, drop, grow, prune_to, swap

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
INF, NAN = math.inf, math.nan


def mask(pattern: str) -> Tensor:
    """A mask written as ``"1100 1000"``."""
    return torch.tensor([bit == "1" for bit in pattern.replace(" ", "")])


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Weights, gradients and masks of a few small layers, with many ties, magnitudes from 1e-45 to infinity."""
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scales = st.sampled_from([0.0, 1e-45, 1e-30, 1e-3, 1.0, 1e3, 1e38, INF])
    weights, gradients, masks = {}, {}, {}
    for number, size in enumerate(draw(st.lists(st.integers(1, 24), min_size=1, max_size=5))):
        name, coarse = f"layer{number}", draw(st.booleans())
        for tensors in (weights, gradients):
            values = torch.randn(size, generator=source)
            scaled = (values.round() if coarse else values) * draw(scales)
            tensors[name] = scaled.nan_to_num(0.0, INF, -INF)  # 0 * inf
        masks[name] = torch.rand(size, generator=source) < draw(st.sampled_from([0.2, 0.6, 1.0]))
        masks[name][int(torch.randint(size, (), generator=source))] = True
    return weights, gradients, masks


def test_prune_to_keeps_the_largest_of_all_layers_together() -> None:
    weights = {"a": torch.tensor([1.0, -8, 3, 4]), "b": torch.tensor([-5.0, 2, 7, 6])}
    masks = {"a": mask("1111"), "b": mask("1101")}
    assert same(prune_to(weights, masks, 4), {"a": mask("0101"), "b": mask("1001")})


def test_prune_to_breaks_ties_by_the_order_of_layers_and_then_by_index() -> None:
    weights = {"a": torch.ones(4), "b": -torch.ones(4)}
    masks = {"a": mask("1111"), "b": mask("1111")}
    assert same(prune_to(weights, masks, 6), {"a": mask("1111"), "b": mask("1100")})


def test_prune_to_keeps_the_largest_weight_of_a_layer_that_would_be_emptied() -> None:
    weights = {"a": torch.tensor([9.0, 8, 7, 6]), "b": torch.tensor([1.0, 3, 2, 3]), "c": torch.tensor([0.0] * 4)}
    masks = {"a": mask("1111"), "b": mask("1101"), "c": mask("0110")}
    assert same(prune_to(weights, masks, 4), {"a": mask("1100"), "b": mask("0100"), "c": mask("0100")})
    assert same(prune_to(weights, masks, 3), {"a": mask("1000"), "b": mask("0100"), "c": mask("0100")})


def test_prune_to_empties_no_layer_beside_infinite_weights() -> None:
    weights = {"a": torch.full((4,), INF), "b": torch.tensor([1.0, 2, 3, 4])}
    masks = {"a": mask("1111"), "b": mask("1111")}
    assert same(prune_to(weights, masks, 4), {"a": mask("1110"), "b": mask("0001")})


def test_prune_to_leaves_empty_layers_empty_and_arguments_alone() -> None:
    weights = {"a": torch.tensor([1.0, 2, 3, 4]), "b": torch.tensor([5.0, 6, 7, 8])}
    masks = {"a": mask("1111"), "b": mask("0000")}
    assert same(prune_to(weights, masks, 2), {"a": mask("0011"), "b": mask("0000")})
    assert same(masks, {"a": mask("1111"), "b": mask("0000")})
    assert same(prune_to(weights, {"b": mask("0000")}, 0), {"b": mask("0000")})
    assert prune_to({}, {}, 0) == {}


@pytest.mark.parametrize("keep", [1, 7])
def test_prune_to_refuses_what_it_cannot_keep(keep: int) -> None:
    weights = {"a": torch.rand(4), "b": torch.rand(4)}
    with pytest.raises(UsageError, match=rf"got {keep}; expected 2 \(one a layer\) to 6 \(active now\)"):
        prune_to(weights, {"a": mask("1110"), "b": mask("1110")}, keep)


def test_nothing_active_can_only_stay_so() -> None:
    with pytest.raises(UsageError, match=r"got 1; expected 0 \(one a layer\) to 0 \(active now\)"):
        prune_to({"a": torch.rand(4)}, {"a": mask("0000")}, 1)


def test_nan_among_active_weights_is_refused() -> None:
    weights = {"a": torch.tensor([1.0, NAN, 3, 4]), "b": torch.tensor([1.0, 2, 3, 4])}
    masks = {"a": mask("1111"), "b": mask("1111")}
    with pytest.raises(UsageError, match="NaN"):
        prune_to(weights, masks, 5)
    with pytest.raises(UsageError, match="NaN"):
        drop(weights, masks, {"a": 1, "b": 1})


@pytest.mark.parametrize("device", DEVICES)
@EXAMPLES
@given(network=networks(), share=st.floats(0, 1))
def test_prune_to_is_exact_nested_and_empties_nothing(device: str, network: tuple, share: float) -> None:
    weights, _, masks = ({name: t.to(device) for name, t in tensors.items()} for tensors in network)
    most = sum(active(masks).values())
    keep = len(masks) + round(share * (most - len(masks)))
    pruned = prune_to(weights, masks, keep)
    assert sum(active(pruned).values()) == keep
    assert min(active(pruned).values()) >= 1
    assert not any((pruned[name] & ~masks[name]).any() for name in masks)
    assert same(pruned, prune_to(weights, masks, keep))
    assert same(pruned, {name: m.to(device) for name, m in pruned_by_sorting(network[0], network[2], keep).items()})


def pruned_by_sorting(weights: dict[str, Tensor], masks: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """The best weight of every layer, then the best of all others; earlier layers and lower indices win ties."""
    ranked = sorted(
        (-abs(weights[name][i].item()), order, i)
        for order, name in enumerate(masks)
        for i in masks[name].nonzero().flatten().tolist()
    )
    firsts = {order: (value, order, i) for value, order, i in reversed(ranked)}.values()
    kept = [*firsts, *(entry for entry in ranked if entry not in firsts)][:keep]
    pruned = {name: torch.zeros_like(m) for name, m in masks.items()}
    names = list(masks)
    for _, order, i in kept:
        pruned[names[order]][i] = True
    return pruned


@EXAMPLES
@given(network=networks(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_pruning_further_nests(network: tuple, shares: tuple[float, float]) -> None:
    weights, _, masks = network
    room = sum(active(masks).values()) - len(masks)
    more, less = (len(masks) + round(share * room) for share in sorted(shares, reverse=True))
    assert same(prune_to(weights, prune_to(weights, masks, more), less), prune_to(weights, masks, less))


def test_weights_of_different_types_are_compared_by_value() -> None:
    weights = {"a": torch.tensor([1.0, 4], dtype=torch.float16), "b": torch.tensor([2.0, 3])}
    masks = {"a": mask("11"), "b": mask("11")}
    assert same(prune_to(weights, masks, 2), {"a": mask("01"), "b": mask("01")})


def test_layers_with_budgets_of_their_own_are_pruned_and_dropped_by_themselves() -> None:
    weights = {"a": torch.tensor([1.0, -8, 3, 4]), "b": torch.tensor([-50.0, 20, 70, 60])}
    masks = {"a": mask("1111"), "b": mask("1101")}
    expected = {"a": mask("0101"), "b": mask("1001")}
    assert same(prune_to(weights, masks, {"a": 2, "b": 2}), expected)
    assert same(drop(weights, masks, {"a": 2, "b": 1}), expected)


def test_grow_takes_the_largest_inactive_scores() -> None:
    scores = {"a": torch.tensor([9.0, 1, 8, 2, 7, 3, 6, 4])}
    assert same(grow(scores, {"a": mask("1010 1000")}, {"a": 2}), {"a": mask("1010 1011")})


def test_swap_by_hand() -> None:
    weights = {"a": torch.tensor([4.0, -1, 3, 2, 0, 0, 0, 0])}
    gradients = {"a": torch.tensor([9.0, 1, 9, 2, 5, -7, 6, 0])}
    # Dropped: positions 3 and 1. Grown of 1, 3, 4, 5, 6, 7: the gradients 7 and 6.
    assert same(swap(weights, gradients, {"a": mask("1111 0000")}, {"a": 2}), {"a": mask("1010 0110")})


def test_what_was_just_dropped_can_grow_again() -> None:
    weights = {"a": torch.tensor([4.0, -1, 3, 2, 0, 0, 0, 0])}
    gradients = {"a": torch.tensor([0.0, 0, 0, -9, 5, 1, 1, 1])}
    assert same(swap(weights, gradients, {"a": mask("1111 0000")}, {"a": 2}), {"a": mask("1011 1000")})


def test_growth_never_picks_active_positions_when_all_gradients_are_zero() -> None:
    weights = {"a": torch.tensor([4.0, 3, 2, 1, 0, 0, 0, 0])}
    zeros = {"a": torch.zeros(8)}
    assert same(grow(zeros, {"a": mask("1100 1000")}, {"a": 3}), {"a": mask("1111 1100")})
    assert same(swap(weights, zeros, {"a": mask("1111 0000")}, {"a": 2}), {"a": mask("1111 0000")})
    assert same(swap(weights, zeros, {"a": mask("0000 1111")}, {"a": 2}), {"a": mask("1100 1100")})


def test_layers_that_swap_nothing_need_neither_weights_nor_gradients() -> None:
    masks = {"a": mask("1100"), "b": mask("1100")}
    weights, gradients = {"a": torch.tensor([1.0, 2, 0, 0])}, {"a": torch.tensor([0.0, 0, 0, 1])}
    assert same(swap(weights, gradients, masks, {"a": 1, "b": 0}), {"a": mask("0101"), "b": mask("1100")})


def test_dropping_or_growing_more_than_there_is_is_refused() -> None:
    masks = {"a": mask("1100 0000")}
    with pytest.raises(UsageError, match="cannot select that many"):
        drop({"a": torch.rand(8)}, masks, {"a": 3})
    with pytest.raises(UsageError, match="cannot select that many; got 7; expected 0 to 6"):
        grow({"a": torch.rand(8)}, masks, {"a": 7})


def test_a_gradient_that_is_nan_is_refused_where_something_could_grow() -> None:
    weights, gradients = {"a": torch.tensor([4.0, 3, 0, 0])}, {"a": torch.tensor([1.0, 1, NAN, 2])}
    with pytest.raises(UsageError, match="NaN"):
        swap(weights, gradients, {"a": mask("1100")}, {"a": 1})
    assert same(swap(weights, {"a": torch.tensor([NAN, 1, 3, 2])}, {"a": mask("1100")}, {"a": 1}), {"a": mask("1010")})


@pytest.mark.parametrize("device", DEVICES)
@EXAMPLES
@given(network=networks(), share=st.floats(0, 1))
def test_swap_keeps_counts_and_equals_sorting(device: str, network: tuple, share: float) -> None:
    weights, gradients, masks = ({name: t.to(device) for name, t in tensors.items()} for tensors in network)
    counts = {name: round(share * count) for name, count in active(masks).items()}
    swapped = swap(weights, gradients, masks, counts)
    assert active(swapped) == active(masks)
    assert same(swapped, swap(weights, gradients, masks, counts))
    expected = {name: swapped_by_sorting(*(t[name] for t in network), counts[name]) for name in masks}
    assert same(swapped, {name: m.to(device) for name, m in expected.items()})


def swapped_by_sorting(weight: Tensor, gradient: Tensor, before: Tensor, count: int) -> Tensor:
    kept = sorted(before.nonzero().flatten().tolist(), key=lambda i: (-abs(weight[i].item()), i))
    kept = kept[: len(kept) - count]
    rest = sorted(set(range(len(before))) - set(kept), key=lambda i: (-abs(gradient[i].item()), i))
    after = torch.zeros_like(before)
    after[kept + rest[:count]] = True
    return after


def test_what_comes_back_is_of_the_kind_that_was_given() -> None:
    weights = {"a": torch.randn(4, 3, 2, 2), "b": torch.randn(40)}
    masks = {"a": torch.rand(4, 3, 2, 2) < 0.6, "b": torch.ones(40, dtype=torch.bool)}
    masks["a"] = masks["a"].to(memory_format=torch.channels_last)
    counts = {"a": 3, "b": 0}
    for change in (
        lambda present: prune_to(weights, present, 20),
        lambda present: prune_to(weights, present, {"a": 5, "b": 7}),
        lambda present: drop(weights, present, counts),
        lambda present: grow(weights, present, counts),
        lambda present: swap(weights, weights, present, counts),
    ):
        plain, packed = change(masks), change(PackedMasks.of(masks))
        assert type(plain) is dict
        assert plain["a"].dtype == torch.bool
        assert plain["a"].is_contiguous(memory_format=torch.channels_last)
        assert isinstance(packed, PackedMasks)
        assert packed == plain


def test_memory_formats_change_no_choice() -> None:
    source = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(6, 4, 3, 3, generator=source).mul(2).round() for name in "ab"}
    masks = {name: torch.rand(6, 4, 3, 3, generator=source) < 0.7 for name in "ab"}
    counts = {"a": 20, "b": 31}
    last = [
        {name: tensor.to(memory_format=torch.channels_last) for name, tensor in tensors.items()}
        for tensors in (weights, masks)
    ]
    for other in ([weights, masks], last, [last[0], masks], [weights, last[1]]):
        assert same(prune_to(other[0], other[1], 150), prune_to(weights, masks, 150))
        assert same(swap(other[0], other[0], other[1], counts), swap(weights, weights, masks, counts))


def test_an_update_stays_as_it_was() -> None:
    masks = {"a": mask("1111 0000")}
    update = TopologyUpdate(1, masks, masks, masks)
    masks["a"][:] = True
    update.masks["a"][:] = True
    assert update.masks["a"].tolist() == update.before["a"].tolist() == [True] * 4 + [False] * 4
    assert update.density == 0.5


def test_survivors_and_counts_of_an_update() -> None:
    # Position 0 stays; 1 is pruned and grown again; 2 dropped; 3 dropped and grown at once; 4 grown; 5 pruned.
    update = TopologyUpdate(
        step=7,
        before={"a": mask("1111 0100")},
        pruned={"a": mask("1011 0000")},
        masks={"a": mask("1101 1000")},
    )
    assert same(update.survivors, {"a": mask("1001 0000")})
    assert update.counts == {"a": {"active": 4, "pruned": 2, "dropped": 1, "grown": 2}}
    assert update.density == density(update.masks) == 0.5
