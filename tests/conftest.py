"""What tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from granet.models.torchvision_guard import import_torchvision
from granet_cli.app import run
from granet_cli.train import session
from tests.commandline import Answer, Granet

# The process that collects what parallel workers report imports the classes of their warnings, torchvision with them.
import_torchvision()

# Models here are tiny: threads cost more than they give, and more still where tests share the machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
# A shell has what it runs in the background ignore Ctrl-C, and so would every process that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Vectors recorded from the GraNet authors' code. They are not distributed with granet."""
    beside = Path(__file__).parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("GRANET_GOLDEN", beside))
    if not folder.is_dir():
        pytest.skip("set GRANET_GOLDEN to the folder of recorded vectors")
    return folder


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_export_check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tests train networks of their own, and the check takes seconds; tests that are about it ask for it."""
    if "export_check" not in request.fixturenames:
        monkeypatch.setattr(session, "warn_of_export", lambda _: None)


@pytest.fixture
def export_check() -> None:
    """Let ``granet train`` find out whether the network can be exported, as it does for users."""


@pytest.fixture
def granet(capfd: pytest.CaptureFixture[str]) -> Granet:
    """The command line, in this process."""

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return call
