"""``torchrun ... -m granet_cli train``: restarts, signals, and mistakes told once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from granet.checkpoint import load
from granet.data.ranks import Ranks
from granet.errors import DeviceError, UsageError
from granet.training.distributed import TorchrunRank, device_for
from granet_cli import errors as told
from scripts.soak_ranks import contents, processes, recipe, stamp
from tests.commandline import Granet
from tests.ranks_at_work import at_work
from tests.synthetic import write_image_folder

SETTINGS = ("--batch-size", "12")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    images = write_image_folder(folder / "images", per_class=80)
    (folder / "tiny.toml").write_text(recipe(images, 2).to_toml())
    return folder


def torchrun(place: Path, *arguments: object, ranks: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [f"--max-restarts={restarts}", "-m", "granet_cli", "train", "--device", "cpu", "--json"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )


def wait_for(file: Path, *, after: int = 0) -> int:
    """Until ``file`` is written anew; when it was."""
    for _ in range(6000):
        if stamp(file) > after:
            return stamp(file)
        time.sleep(0.01)
    raise AssertionError(f"{file} was not written")


def test_a_run_that_loses_ranks_restarts_and_ends_as_if_undisturbed(place: Path) -> None:
    whole = torchrun(place, "--recipe", "tiny.toml", "--out", "whole")
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    assert json.loads(out)["step"] == 36
    assert len(re.findall("training on 2 ranks", err)) == 1

    disturbed = torchrun(place, "--recipe", "tiny.toml", "--out", "disturbed", restarts=3)
    seen = 0
    for victim in (1, 0):
        seen = wait_for(place / "disturbed" / "last.safetensors", after=seen)
        os.kill(processes(disturbed.pid)[victim], signal.SIGKILL)
        time.sleep(0.5)
        seen = stamp(place / "disturbed" / "last.safetensors")
    out, err = disturbed.communicate()
    assert disturbed.returncode == 0, err
    assert json.loads(out)["step"] == 36
    assert len(re.findall("continuing after step", err)) >= 1
    assert contents(place / "disturbed") == contents(place / "whole")


def test_a_signal_to_one_rank_saves_and_another_number_of_ranks_resumes(place: Path, granet: Granet) -> None:
    run = torchrun(place, "--recipe", "tiny.toml", "--out", "stopped")
    last = place / "stopped" / "last.safetensors"
    wait_for(last, after=wait_for(last))
    ranks = processes(run.pid)
    os.kill(ranks[1], signal.SIGTERM)
    out, err = run.communicate()
    assert out == ""
    [step] = re.findall(r"stopped at step (\d+) of 36; stopped/last.safetensors is safe", err)
    assert "torchrun --nproc-per-node=2 -m granet_cli train --resume stopped" in err
    assert re.findall(r"exitcode *: *(\S+)", err).count("130") >= 1
    state = load(last)
    assert state.step == int(step)
    assert state.progress["ranks"] == 2

    answer = granet("train", "--resume", place / "stopped", "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    assert "1 ranks where there were 2: " in answer.err
    assert "batch norms see 12 images at a time instead of 6" in answer.err
    assert load(last).step == 36
    assert "ranks" not in load(last).progress


def failing(world, what: str) -> None:  # type: ignore[no-untyped-def]
    from granet.errors import DataError

    if what == "first":
        world.from_rank_zero(lambda: (_ for _ in ()).throw(DataError("no such folder", where="x")))
    with world.share_errors():
        if what == "all" or (what == "one" and world.ranks.rank == 1):
            raise DataError("no such folder", where="x")


@pytest.mark.parametrize(
    ("what", "message"),
    [("first", "x: no such folder"), ("all", "x: no such folder"), ("one", "rank 1: x: no such folder")],
)
def test_an_error_of_one_rank_is_reported_by_all(what: str, message: str) -> None:
    for failed in at_work(3, failing, what):
        assert (failed.message, failed.everywhere) == (message, True)


def test_an_error_of_all_ranks_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shared, own = UsageError("no such thing"), UsageError("no such thing")
    shared.everywhere = True
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert told.report(shared) == told.report(own) == 2
        shown.append(capfd.readouterr().err)
    assert shown == ["error: no such thing\nerror: rank 0: no such thing\n", "error: rank 1: no such thing\n"]


def test_only_training_runs_on_several_ranks(granet: Granet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = granet("rewind", "--resume", "somewhere")
    assert answer.code == 2
    assert "only training runs on several ranks" in answer.err
    assert "Begin a rewind in one process" in answer.err


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: not a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: not a number of processes"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "no LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            "no such rank; got 2; expected 0 to 1",
        ),
    ],
)
def test_contradicting_variables_of_torchrun_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TorchrunRank.of(environment)


def test_the_rank_is_read_from_the_variables_of_torchrun() -> None:
    assert TorchrunRank.of({}) == TorchrunRank()
    place = TorchrunRank.of(
        {
            "WORLD_SIZE": "8",
            "RANK": "5",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "here",
            "MASTER_PORT": "1",
            "TORCHELASTIC_RESTART_COUNT": "2",
            "TORCHELASTIC_MAX_RESTARTS": "3",
        }
    )
    assert place == TorchrunRank(rank=5, size=8, local_rank=1, local_size=4, restarts=2, max_restarts=3)


@pytest.mark.parametrize(
    ("batch_size", "parts", "message"),
    [
        (130, 1, r"batch_size: .* got 130 images for 4 ranks; .* Choose 128 or 132, or another number"),
        (3, 1, r"Choose 4, or another number"),
        (128, 3, r"accumulate: .* got 32 images of 128 in 3 parts; .* Choose training.batch_size 120 or 132, or fewer"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused(batch_size: int, parts: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ranks(0, 4).check(batch_size, parts)
    Ranks().check(batch_size, parts)


def test_ranks_need_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = TorchrunRank(rank=1, size=3, local_rank=1, local_size=3)
    assert device_for("auto", second) == torch.device("cuda", 1)
    assert device_for("cuda:1", TorchrunRank()) == torch.device("cuda", 1)
    assert device_for("cpu", second) == torch.device("cpu")
    with pytest.raises(
        UsageError, match=r"several ranks cannot share a GPU.*--device cuda, which gives each rank its own"
    ):
        device_for("cuda:1", second)
    with pytest.raises(DeviceError, match=r"got 3 ranks on this machine; expected at most 2. .*--nproc-per-node 2"):
        device_for("cuda", TorchrunRank(rank=2, size=3, local_rank=2, local_size=3))
