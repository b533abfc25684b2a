"""Whatever is in a file, it is refused with the checkpoint error or opens as something sound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.judge import Finding, Original, judge
from fuzz.mutate import CORPUS, run
from fuzz.mutations import damage, forge

ORIGINALS = [Original.read(path) for path in sorted(CORPUS.glob("*.safetensors"))]
originals = st.sampled_from(ORIGINALS)
fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(rng=st.randoms(use_true_random=False), original=originals, donor=originals)
def test_a_damaged_file_is_refused(tmp_path: Path, rng: random.Random, original: Original, donor: Original) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(rng, original.data, donor.data)[1])
    assert judge(path, original, forged=False) in {"refused", "unchanged"}


@fuzzing
@given(rng=st.randoms(use_true_random=False), original=originals, donor=originals)
def test_a_forged_file_is_refused_or_sound(
    tmp_path: Path, rng: random.Random, original: Original, donor: Original
) -> None:
    path = tmp_path / "forged.safetensors"
    path.write_bytes(forge(rng, original.data, donor.data)[1])
    assert judge(path, original, forged=True) in {"refused", "unchanged", "sound"}


@fuzzing
@given(data=st.binary(max_size=300), keep=st.integers(0, 600))
def test_a_beginning_with_anything_behind_it_is_refused(tmp_path: Path, data: bytes, keep: int) -> None:
    path = tmp_path / "anything.safetensors"
    path.write_bytes(ORIGINALS[0].data[:keep] + data)
    assert judge(path, ORIGINALS[0], forged=False) == "refused"


def test_the_judge_notices_what_should_not_be(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(ORIGINALS[1].data)
    with pytest.raises(Finding, match="a damaged file was accepted"):
        judge(path, ORIGINALS[0], forged=False)
    assert judge(path, ORIGINALS[0], forged=True) == "sound"


def test_the_long_run_counts_every_file(tmp_path: Path) -> None:
    ends, longest, found = run(seed=1, count=60, folder=tmp_path)
    assert ends.total() == 60
    assert {end for _, end in ends} <= {"refused", "unchanged", "sound"}
    assert found == []
    assert longest > 0
    assert list(tmp_path.iterdir()) == []
