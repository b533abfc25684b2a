"""Generated networks of users train and resume exactly, or are refused before training with a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from fuzz.train_networks import images, judge

DATA = images()


@pytest.mark.parametrize("number", range(40))
def test_a_generated_network_trains_or_is_refused_before_training(number: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the networks
        judge(number, DATA, tmp_path)  # raises what a user should not meet
