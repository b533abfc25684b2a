"""Whatever is in a file, it is refused with the checkpoint error or opens as something sound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.judge import Finding, judge
from fuzz.mutate import SOUND, run
from fuzz.mutations import damage, forge

files = st.sampled_from(SOUND)
fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(rng=st.randoms(use_true_random=False), data=files, donor=files)
def test_a_damaged_file_is_refused(tmp_path: Path, rng: random.Random, data: bytes, donor: bytes) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(rng, data, donor)[1])
    assert judge(path, SOUND, forged=False) in {"refused", "unchanged"}


@fuzzing
@given(rng=st.randoms(use_true_random=False), data=files, donor=files)
def test_a_forged_file_is_refused_or_sound(tmp_path: Path, rng: random.Random, data: bytes, donor: bytes) -> None:
    path = tmp_path / "forged.safetensors"
    path.write_bytes(forge(rng, data, donor)[1])
    assert judge(path, SOUND, forged=True) in {"refused", "unchanged", "sound"}


@fuzzing
@given(data=st.binary(max_size=300), keep=st.integers(0, 600))
def test_a_beginning_with_anything_behind_it_is_refused(tmp_path: Path, data: bytes, keep: int) -> None:
    path = tmp_path / "anything.safetensors"
    path.write_bytes(SOUND[0][:keep] + data)
    assert judge(path, SOUND, forged=False) == "refused"


def test_the_fuzz_judge_finds_unsound_results(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(SOUND[1])
    with pytest.raises(Finding, match="a damaged file was accepted"):
        judge(path, SOUND[:1], forged=False)
    assert judge(path, SOUND[:1], forged=True) == "sound"


def test_the_long_run_counts_every_file(tmp_path: Path) -> None:
    ends, longest, found = run(seed=1, count=60, folder=tmp_path)
    assert ends.total() == 60
    assert {end for _, end in ends} <= {"refused", "unchanged", "sound"}
    assert found == []
    assert longest > 0
    assert list(tmp_path.iterdir()) == []
