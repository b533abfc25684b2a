"""What docs/other-loops.md shows works, and so does the example with timm."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.adapted import Examples, network, optimizer_of
from tests.adapted_hosts import Module, WithLoss
from tests.running import identical
from tests.synthetic import write_image_folder

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "other-loops.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))


def surroundings(title: str) -> dict[str, Any]:
    """What an example takes for granted."""
    if title == "Lightning":
        return {"module": Module(), "loader": Examples().loader()}
    if title == "Accelerate":
        net = network()
        loss_of = lambda model, batch: F.cross_entropy(model(batch["images"]), batch["labels"])  # noqa: E731
        given = {"model": net, "optimizer": optimizer_of(net), "loader": Examples().loader(2)}
        return {**given, "epochs": 2, "loss_of": loss_of}
    return {"model": WithLoss(), "dataset": Examples()}


# Hosts advise on loaders, loggers and devices, each by a warning.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("title", ["Lightning", "Trainer of transformers", "Accelerate"])
def test_examples_of_the_documentation_work(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[title], f"other-loops.md, {title}", "exec"), surroundings(title))  # noqa: S102  our own file
    assert capsys.readouterr().out.strip().splitlines()[-1] == "0.1000 of the weights are active"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm does not close its images
def test_the_example_with_timm_trains_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="pip install -c constraints.txt '.[timm]' first")
    images = write_image_folder(tmp_path / "images", splits=("train", "val"), per_class=8, size=16)
    monkeypatch.chdir(tmp_path)

    def train(checkpoint: str) -> list[str]:
        settings = {"model": "resnet10t", "size": 32, "batch-size": 8, "workers": 0, "interval": 1, "epochs": 2}
        given = [f"--{name}={value}" for name, value in {**settings, "checkpoint": checkpoint}.items()]
        monkeypatch.setattr(sys, "argv", ["timm_loop.py", str(images), *given])
        runpy.run_path(str(DOCS / "examples" / "timm_loop.py"), run_name="__main__")
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]

    whole = train("whole.pt")
    assert len(whole) == 2
    assert whole[-1].endswith("density 0.1000")
    state = torch.load("whole.pt", weights_only=True)
    masks = {name: mask for name, mask in state["sparsifier"]["masks"].items() if not bool(mask.all())}
    assert masks
    assert not any(bool(state["model"][name][~mask].any()) for name, mask in masks.items())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.lr_scheduler.CosineAnnealingLR, "step", step_until(5, killed))
        with pytest.raises(KeyboardInterrupt):
            train("other.pt")
    capsys.readouterr()
    assert train("other.pt") == whole[1:]
    assert identical(torch.load("other.pt", weights_only=True), state)
    assert train("other.pt") == []


def step_until(last: int, then: Callable[[], None]) -> Callable[[Any], None]:
    """A schedule's ``step`` that after ``last`` calls does something else; the first call is the constructor's."""
    step, calls = torch.optim.lr_scheduler.CosineAnnealingLR.step, itertools.count(1)

    def stepped(schedule: Any) -> None:
        if next(calls) > last:
            then()
        step(schedule)

    return stepped
