"""Selection keeps exactly k, and ties go to the lowest flat index."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from granet.errors import UsageError
from granet.masks import kernels, layout, selection
from granet.masks import mapping as masking
from granet.masks.layout import Layout
from granet.masks.packed import PackedMasks
from granet.masks.selection import best, largest, top_k

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True, params=["numpy", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test twice: with what a CPU is given, and with what any other device is, in smaller pieces."""
    monkeypatch.setattr(selection, "_SMALL", 2**12)
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
        monkeypatch.setattr(layout, "PIECE", 2**9)
    return


def mask(pattern: str) -> Tensor:
    """A mask written as ``"1100 1000"``."""
    return torch.tensor([bit == "1" for bit in pattern.replace(" ", "")])


def sorted_top_k(scores: Tensor, k: int, eligible: Tensor) -> Tensor:
    """The same by a full sort of Python objects: best score first, then lowest index."""
    values, allowed = scores.flatten().tolist(), eligible.flatten().tolist()
    order = sorted((i for i in range(len(values)) if allowed[i]), key=lambda i: (-values[i], i))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[order[:k]] = True
    return chosen.view(scores.shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("k", "expected"),
    [(0, "0000 0000"), (1, "0001 0000"), (2, "0001 0001"), (3, "0101 0001"), (4, "0101 0101"), (8, "1111 1111")],
)
def test_the_k_largest_are_marked(device: str, k: int, expected: str) -> None:
    scores = torch.tensor([0.1, 5.0, -7.0, 9.0, 2.0, 4.0, 3.0, 8.0], device=device)
    assert torch.equal(top_k(scores, k).cpu(), mask(expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_go_to_the_lowest_flat_index(device: str, dtype: torch.dtype) -> None:
    scores = torch.tensor([1, 2, 1, 3, 1, 2, 2, 1], dtype=dtype, device=device)
    assert torch.equal(top_k(scores, 3).cpu(), mask("0101 0100"))
    assert torch.equal(top_k(scores, 6).cpu(), mask("1111 0110"))
    assert torch.equal(top_k(torch.zeros_like(scores), 3).cpu(), mask("1110 0000"))


def test_only_eligible_positions_are_marked() -> None:
    scores = torch.tensor([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0])
    assert torch.equal(top_k(scores, 2, mask("0111 0101")), mask("0010 0001"))
    assert torch.equal(top_k(scores, 0, mask("0000 0000")), mask("0000 0000"))


def test_flat_index_means_row_by_row_whatever_the_strides() -> None:
    scores = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)
    assert top_k(scores, 5).flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert top_k(torch.zeros(4, 2).T, 5).flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_infinities_are_ordinary_values() -> None:
    scores = torch.tensor([0.0, INF, -INF, 1.0, INF, -INF, 2.0, 3.0])
    assert torch.equal(top_k(scores, 1), mask("0100 0000"))
    assert torch.equal(top_k(scores, 3), mask("0100 1001"))
    assert torch.equal(top_k(scores, 7), mask("1111 1011"))


def test_zero_has_no_sign() -> None:
    assert torch.equal(top_k(torch.tensor([-0.0, 0.0, -0.0, 0.0]), 2), mask("1100"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_nan_is_refused(device: str, dtype: torch.dtype, k: int) -> None:
    for values in ([1, 2, NAN, 4, 5, 6, 7, 8], [1, 1, NAN, 1, 1, 1, 1, 1], [0, NAN, 0, NAN, 3, 3, 3, 0]):
        with pytest.raises(UsageError, match="NaN"):
            top_k(torch.tensor(values, dtype=dtype, device=device), k)


def test_nan_does_not_matter_where_it_is_not_eligible() -> None:
    scores = torch.tensor([1.0, NAN, 3.0, NAN])
    assert torch.equal(top_k(scores, 1, mask("1010")), mask("0010"))


@pytest.mark.parametrize("k", [-1, 4])
def test_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match=f"got {k}; expected 0 to 3"):
        top_k(torch.rand(8), k, mask("1110 0000"))


def test_scores_are_left_alone() -> None:
    scores = torch.rand(8, requires_grad=True)
    before = scores.detach().clone()
    top_k(scores, 3)
    assert torch.equal(scores, before)


@EXAMPLES
@given(
    rows=st.integers(1, 6),
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, -3.0, 1e-45, 3e38, INF, -INF]), min_size=1, max_size=60),
    share=st.floats(0, 1),
    salt=st.integers(0, 2**16),
)
def test_equals_a_full_sort(rows: int, values: list[float], share: float, salt: int) -> None:
    scores = torch.tensor(values).repeat(rows, 1)
    eligible = torch.rand(scores.shape, generator=torch.Generator().manual_seed(salt)) < 0.7
    k = round(share * int(eligible.sum()))
    chosen = top_k(scores, k, eligible)
    assert int(chosen.sum()) == k
    assert torch.equal(chosen, sorted_top_k(scores, k, eligible))
    assert torch.equal(chosen, top_k(scores, k, eligible))


LARGE = {
    "normal": lambda x: x,
    "halves": lambda x: x.half().float(),
    "mostly zero": lambda x: x.relu().sub(1.5).relu(),
    "three values": lambda x: x.round().clamp(-1, 1),
    "constant": torch.zeros_like,
    "sorted": lambda x: x.sort().values,
    "heavy tails": lambda x: x.sign() * x.abs() ** 40,
    "infinite": lambda x: torch.where(x.abs() > 1, x * INF, x),
    "one outlier": lambda x: torch.cat([torch.zeros_like(x[1:]), torch.tensor([1.0], device=x.device)]),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("values", LARGE.values(), ids=LARGE)
def test_large_tensors_of_any_distribution(device: str, values: Callable[[Tensor], Tensor]) -> None:
    scores = values(torch.randn(50_000, device=device))
    order = scores.sort(descending=True, stable=True).indices
    tied = int((scores == scores.max()).count_nonzero())  # the border between the largest value and the rest
    for k in (1, 17, 5_000, 25_000, 40_000, 49_999, tied, min(tied + 1, 50_000)):
        expected = torch.zeros_like(scores, dtype=torch.bool)
        expected[order[:k]] = True
        assert torch.equal(top_k(scores, k), expected)
        eligible = torch.arange(50_000, device=device) % 2 == 0
        allowed = order[eligible[order]][: k // 2]
        expected = torch.zeros_like(scores, dtype=torch.bool)
        expected[allowed] = True
        assert torch.equal(top_k(scores, k // 2, eligible), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_tensors_of_any_type(dtype: torch.dtype) -> None:
    scores = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    order = scores.double().sort(descending=True, stable=True).indices
    for k in (100, 20_000):
        expected = torch.zeros(50_000, dtype=torch.bool)
        expected[order[:k]] = True
        assert torch.equal(top_k(scores, k), expected)


# Several layers at once


SIZES = {"small": (11, 7), "large": (90, 100, 2, 3), "tiny": (3,), "other": (40_000,), "last": (5, 4, 3, 3)}
COARSE = [
    pytest.param(lambda x: x, id="normal"),
    pytest.param(lambda x: x.mul(3).round(), id="coarse"),
    pytest.param(lambda x: x.round().relu(), id="mostly zero"),
    pytest.param(torch.zeros_like, id="zero"),
]


def layers(values: Callable[[Tensor], Tensor], *, last: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores and masks of large and small layers, the 4-D ones perhaps in channels_last."""
    source = torch.Generator().manual_seed(0)
    scores = {name: values(torch.randn(shape, generator=source)) for name, shape in SIZES.items()}
    masks = {name: torch.rand(shape, generator=source) < 0.6 for name, shape in SIZES.items()}
    if last:
        for tensors in (scores, masks):
            for name in ("large", "last"):
                tensors[name] = tensors[name].to(memory_format=torch.channels_last)
    return scores, masks


def ranked(scores: dict[str, Tensor], eligible: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k best of all layers by one stable sort, in logical order."""
    flat = torch.cat([scores[name].abs().reshape(-1) for name in eligible])
    allowed = torch.cat([mask.reshape(-1) for mask in eligible.values()])
    order = flat.sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(allowed)
    chosen[order[allowed[order]][:k]] = True
    parts = chosen.split([mask.numel() for mask in eligible.values()])
    return {name: part.view(SIZES[name]) for name, part in zip(eligible, parts, strict=True)}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("values", COARSE)
def test_the_best_of_all_layers(values: Callable[[Tensor], Tensor], last: bool) -> None:
    scores, masks = layers(values, last=last)
    total = sum(int(m.sum()) for m in masks.values())
    for k in (0, 1, total // 10, total // 2, total - 1, total):
        assert best(scores, PackedMasks.of(masks), k) == ranked(scores, masks, k)


@pytest.mark.parametrize("inactive", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("values", COARSE)
def test_the_best_of_each_layer(values: Callable[[Tensor], Tensor], last: bool, inactive: bool) -> None:
    scores, masks = layers(values, last=last)
    eligible = {name: ~m if inactive else m for name, m in masks.items()}
    for share in (0.0, 0.2, 0.7, 1.0):
        budgets = {name: round(share * int(m.sum())) for name, m in eligible.items()}
        found = best(scores, PackedMasks.of(masks), budgets, inactive=inactive)
        for name, k in budgets.items():
            assert torch.equal(found[name], ranked(scores, {name: eligible[name]}, k)[name]), name


def test_scores_may_lie_in_memory_unlike_their_masks() -> None:
    scores, masks = layers(lambda x: x.mul(3).round(), last=False)
    turned = {name: score.T.contiguous().T if score.dim() == 2 else score for name, score in scores.items()}
    turned["large"] = scores["large"].to(memory_format=torch.channels_last)
    assert best(turned, PackedMasks.of(masks), 20_000) == ranked(scores, masks, 20_000)


@pytest.mark.parametrize("values", COARSE)
@pytest.mark.parametrize(
    "guess", [(-1.0, -1.0), (0.0, 0.0), (1.0, 1.0), (9.0, 9.0), (0.0, 1.0), (NAN, 0.5), (2.0, NAN)]
)
def test_the_result_does_not_hang_on_the_bracket(
    values: Callable[[Tensor], Tensor], guess: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, masks = layers(values, last=True)
    bracket = tuple(torch.tensor(bound) for bound in guess)
    monkeypatch.setattr(selection._Contest, "_bracket", lambda self, budget: bracket)
    for k in (0, 1, 3_000, 30_000):
        assert best(scores, PackedMasks.of(masks), k) == ranked(scores, masks, k)


def test_a_bracket_is_narrow() -> None:
    scores = {"w": torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)).abs()}
    contest = selection._Contest(scores, PackedMasks.all(Layout.of(scores), torch.device("cpu")))
    for k in (1_000, 30_000, 150_000, 299_000):
        low, high = contest._bracket(k)
        kth = scores["w"].view(-1).sort(descending=True).values[k - 1]
        assert low < kth < high
        assert int(((scores["w"] > low) & (scores["w"] < high)).sum()) < 0.1 * 300_000


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PIECE", 2**7)
    scores, masks = layers(lambda x: x.mul(50).round(), last=True)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(best(scores, PackedMasks.of(masks), 20_000))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == ranked(scores, masks, 20_000)


def test_nan_is_named_by_its_layer_in_large_ones_too() -> None:
    scores, masks = layers(lambda x: x, last=False)
    scores["other"][39_999] = NAN
    masks["other"][39_999] = True
    for choose in (
        lambda: best(scores, PackedMasks.of(masks), 1_000),
        lambda: best(scores, PackedMasks.of(masks), dict.fromkeys(SIZES, 1)),
    ):
        with pytest.raises(UsageError, match="other: scores contain NaN"):
            choose()
    masks["other"][39_999] = False
    scores["other"][39_999] = 0.0
    expected = ranked(scores, masks, 1_000)
    scores["other"][39_999] = NAN
    assert best(scores, PackedMasks.of(masks), 1_000) == expected


class Launches(TorchDispatchMode):
    """Counts what a GPU would have to be told to do: all calls but those that only look at a tensor otherwise."""

    LOOKS = frozenset({"view", "permute", "slice", "detach", "split", "split_with_sizes", "unsqueeze", "expand"})

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(count for name, count in self.counts.items() if name not in self.LOOKS)


def test_many_small_layers_take_as_many_launches_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    monkeypatch.setattr(layout, "PIECE", 2**16)

    def launches(count: int) -> int:
        scores = {f"layer{n}": torch.randn(40, 30) for n in range(count)}
        masks = PackedMasks.of({name: torch.rand(40, 30) < 0.5 for name in scores})
        with Launches() as mode:
            best(scores, masks, 5_000)
            best(scores, masks, dict.fromkeys(scores, 100), inactive=True)
        return mode.total

    assert launches(160) == launches(40) < 150


def test_the_largest_magnitude() -> None:
    scores, _ = layers(lambda x: x, last=True)
    assert largest(scores) == max(float(score.abs().max()) for score in scores.values())
    assert largest({}) == largest({"none": torch.empty(0)}) == 0.0
    assert largest({"half": torch.tensor([1.0, -3.0]).bfloat16()}) == 3.0
    scores["last"][0, 0, 0, 0] = -INF
    assert largest(scores) == INF
    scores["tiny"][1] = NAN
    assert math.isnan(largest(scores))


def test_random_masks_have_their_budgets_and_depend_on_seed_and_name_only() -> None:
    shapes = {"conv": (4, 3, 3, 3), "head": (10, 4)}
    masks = masking.random(shapes, {"conv": 50, "head": 7}, seed=1)
    twins = masking.random({"a": (4, 4), "b": (4, 4)}, {"a": 8, "b": 8}, seed=1)
    assert not torch.equal(twins["a"], twins["b"])
    assert masking.active(masks) == {"conv": 50, "head": 7}
    assert {name: tuple(m.shape) for name, m in masks.items()} == shapes
    assert torch.equal(masks["head"], masking.random({"head": (10, 4)}, {"head": 7}, seed=1)["head"])
    assert not torch.equal(masks["head"], masking.random(shapes, {"conv": 50, "head": 7}, seed=2)["head"])


def test_random_masks_are_spread_evenly() -> None:
    drawn = [masking.random({"w": (8,)}, {"w": 2}, seed=seed)["w"] for seed in range(2000)]
    assert torch.stack(drawn).float().mean(0).sub(0.25).abs().max() < 0.04


def test_random_masks_refuse_a_budget_beyond_the_layer() -> None:
    with pytest.raises(UsageError, match=r"head: budget out of range; got 41; expected 0 to 40"):
        masking.random({"head": (10, 4)}, {"head": 41}, seed=0)


def test_density_of_masks() -> None:
    masks = {"a": mask("1100 0000"), "b": mask("1111 0000")}
    assert masking.density(masks) == 6 / 16
    assert masking.density({}) == 1.0
    assert masking.size(masks) == 16
