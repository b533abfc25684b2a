"""What a command loads before it begins: nothing that it has no use for, since that is what a start consists of."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from granet_cli import startup

# torch's own optimizers import its compiler front end, torch._dynamo, which brings sympy; that cannot be helped.
HEAVY = (
    *("torchvision", "scipy", "pandas", "sklearn", "matplotlib", "vl_convert", "tensorboard", "tensorflow"),
    *("onnx", "onnxruntime", "onnxscript", "exporters", "triton", "torch._inductor.compile_fx"),
)


def test_training_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    script = f"""
import json, os, sys
from granet_cli import app
from granet.training.trainer import Trainer
def step(*_):
    os.write(1, json.dumps([name for name in {HEAVY!r} if name in sys.modules]).encode())
    os._exit(0)
Trainer._step = step
app.run(["train", "--out", os.path.join(sys.argv[1], "run"), "--device", "cpu"])
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_garbage_is_collected_as_usual_once_training_has_begun() -> None:
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        startup.defer_garbage_collection()
        assert gc.get_threshold()[0] > 100 * usual[0]
        assert gc.isenabled()
        startup.restore_garbage_collection()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > frozen
        gc.set_threshold(usual[0] + 1)
        startup.restore_garbage_collection()
        assert gc.get_threshold()[0] == usual[0] + 1, "the second time nothing happens"
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
