"""What a signal does to training: it is remembered while there is something to save, and obeyed at once before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from granet.checkpoint import load
from granet.training import stop_on_signals
from tests.synthetic import write_image_folder

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
numbers = pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)


@numbers
def test_a_signal_is_remembered_after_the_first_call_of_stop(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
    assert signal.getsignal(number) == before


@numbers
def test_a_signal_before_the_first_call_of_stop_interrupts_at_once(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        signal.raise_signal(number)


def test_a_second_ctrl_c_interrupts_too() -> None:
    with stop_on_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def command(folder: Path) -> list[str]:
    settings = ["model.name=lenet-300-100", "data.name=image-folder", "training.batch_size=8", "data.augment=none"]
    pairs = [part for setting in settings for part in ("--set", setting)]
    more = ["--method", "dense", "--epochs", "100000", "--data", str(folder / "images"), "--out", str(folder / "run")]
    return [sys.executable, "-m", "granet_cli", "train", "--device", "cpu", *pairs, *more]


def test_a_closed_terminal_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    """Its end is a SIGHUP, and whatever is written to it from then on fails."""
    write_image_folder(tmp_path / "images", per_class=10)
    ours, theirs = os.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen(
        command(tmp_path),
        **streams,
        start_new_session=True,
        preexec_fn=_controlled,  # noqa: PLW1509  no threads yet
    )
    os.close(theirs)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert os.read(ours, 4096)
    os.close(ours)
    process.wait(60)
    assert load(tmp_path / "run" / "last.safetensors").step > 0


def _controlled() -> None:
    """Makes the terminal on standard input that of the new session."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_stop_while_data_are_opened_does_not_wait_for_them(tmp_path: Path) -> None:
    slow = f"""
import granet.training.launch as loop, os, signal, sys, time
def opening(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
loop.open_data = opening
from granet_cli.app import run
sys.exit(run({command(tmp_path)[3:]!r}))
"""
    done = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 130, done.stderr
    assert "stopped before there was anything to save" in done.stderr
    assert not (tmp_path / "run").exists()
