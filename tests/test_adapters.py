"""Adapters: the same model, data order and seeds give the same run as our own loop, in every host."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from granet.errors import CheckpointError, UnknownNameError, UsageError
from granet.masks import mapping as masking
from granet.methods import GraNet
from tests.adapted import (
    TOTAL,
    Accelerated,
    Outcome,
    Overflowing,
    by_accelerate,
    by_our_own_loop,
    by_three_lines,
    method,
    optimizer_of,
    with_accelerate,
)
from tests.adapted_hosts import (
    Manual,
    Module,
    by_lightning,
    by_transformers,
    fit,
    lightning,
    lightning_trainer,
    transformers_trainer,
    with_lightning,
    with_transformers,
)

EMA = lightning.pytorch.callbacks.EMAWeightAveraging
ModelCheckpoint = lightning.pytorch.callbacks.ModelCheckpoint
MixedPrecision = lightning.pytorch.plugins.precision.MixedPrecision

every_method = pytest.mark.parametrize("name", ["granet", "rigl", "snfs"])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["granet", "rigl"])
def test_every_host_gives_what_our_own_loop_gives(name: str, parts: int, tmp_path: Path) -> None:
    ours = by_our_own_loop(name, parts)
    assert by_three_lines(name, parts) == ours
    assert by_lightning(name, parts) == ours
    assert by_transformers(name, tmp_path, parts) == ours
    assert by_accelerate(name, parts) == ours


def test_runs_that_should_differ_do() -> None:
    assert by_three_lines("granet") != by_three_lines("granet", clip=0.1)
    assert by_three_lines("rigl") != by_three_lines("granet")
    assert masking.density(by_three_lines("granet").masks) == pytest.approx(0.2, abs=1e-3)


# A step that RigL replaces is where Lightning's closure would get in the way.
def test_clipping_comes_before_the_step(tmp_path: Path) -> None:
    by_norm = by_three_lines("rigl", clip=0.1)
    assert by_lightning("rigl", gradient_clip_val=0.1) == by_norm
    assert by_transformers("rigl", tmp_path, max_grad_norm=0.1) == by_norm
    assert by_accelerate("rigl", clip=0.1) == by_norm
    by_value = by_three_lines("rigl", clip_value=1e-3)
    assert by_lightning("rigl", gradient_clip_val=1e-3, gradient_clip_algorithm="value") == by_value


def test_manual_optimization_in_lightning() -> None:
    assert by_lightning("rigl", module=Manual()) == by_three_lines("rigl")


# One step overflows; the clock goes on, as in our own loop.
def test_steps_that_a_scaler_skips_advance_the_clock(tmp_path: Path) -> None:
    plain = by_three_lines("granet", scaler=Overflowing())
    assert plain != by_three_lines("granet")
    assert by_transformers("granet", tmp_path, scaler=Overflowing()) == plain
    assert by_accelerate("granet", scaler=Overflowing()) == plain


class _Scaled(MixedPrecision):  # type: ignore[misc]
    """Scales losses without changing any type: half precision on a CPU is another matter."""

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)


def test_steps_that_a_scaler_skips_in_lightning() -> None:
    plugin = _Scaled("16-mixed", "cpu", Overflowing())
    assert by_lightning("granet", plugins=[plugin]) == by_three_lines("granet", scaler=Overflowing())


# ---- stopping and resuming: models begin with other weights, so that all must come from the checkpoint


@every_method
def test_lightning_resumes_exactly(name: str, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = by_lightning(name, callbacks=[saving], enable_checkpointing=True)
    callback, module = with_lightning.SparsifierCallback(method(name), module="net"), Module(seed=1)
    fit(lightning_trainer(callback), module, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert Outcome.of(module.net, callback.sparsifier) == whole == by_three_lines(name)


def test_lightning_continues_with_a_longer_fit_if_total_steps_are_given() -> None:
    callback = with_lightning.SparsifierCallback(method("granet"), module="net", total_steps=TOTAL)
    trainer, module = lightning_trainer(callback, max_epochs=1), Module()
    fit(trainer, module)
    assert callback.sparsifier.steps == 4
    trainer.fit_loop.max_epochs = 3
    # The optimizer is another one, without momentum: not the same run, but the masks go on from where they were.
    fit(trainer, module)
    assert callback.sparsifier.steps == TOTAL
    assert callback.sparsifier.density == pytest.approx(0.2, abs=1e-3)


def test_a_callback_starts_over_with_a_new_trainer(tmp_path: Path) -> None:
    callback, module = with_lightning.SparsifierCallback(method("rigl"), module="net"), Module()
    fit(lightning_trainer(callback, max_epochs=1), module)
    module = Module()
    fit(lightning_trainer(callback), module)
    assert Outcome.of(module.net, callback.sparsifier) == by_three_lines("rigl")


def test_lightning_refuses_a_longer_fit_than_was_planned_and_speaks_of_the_fit_before() -> None:
    callback, module = with_lightning.SparsifierCallback(method("granet"), module="net"), Module()
    trainer = lightning_trainer(callback, max_epochs=2)
    fit(trainer, module)
    trainer.fit_loop.max_epochs = 3
    with pytest.raises(
        UsageError, match=r"^the fit before: .*got total_steps 12; expected total_steps 8.*give its total_"
    ):
        fit(trainer, module)


@pytest.mark.parametrize("first", [True, False])
def test_lightning_warns_when_averaged_weights_are_left_in_the_network(first: bool) -> None:
    callback, module = with_lightning.SparsifierCallback(method("granet"), module="net"), Module()
    callbacks = [EMA(decay=0.5), callback]
    with pytest.warns(RuntimeWarning, match=r"at the end of fit: .*1\.0000 of the weights .* 0\.2000 by the masks"):
        fit(lightning_trainer(*callbacks[:: 1 if first else -1]), module)
    assert callback.sparsifier.density == 1
    callback.sparsifier.apply_masks()
    assert callback.sparsifier.density == masking.density(callback.sparsifier.masks)


@pytest.mark.parametrize(("name", "steps"), [("granet", True), ("rigl", 1), ("snfs", 3)])
def test_a_trial_run_of_lightning_is_not_too_short_for_any_method(name: str, steps: bool | int) -> None:
    callback = with_lightning.SparsifierCallback(method(name), module="net")
    fit(lightning_trainer(callback, fast_dev_run=steps), Module())
    assert callback.sparsifier.steps == int(steps)


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`")
def test_a_batch_that_lightning_skips_advances_the_clock() -> None:
    class Skipping(Module):
        def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
            return None if self.global_step == 2 else super().training_step(batch)

    callback, module = with_lightning.SparsifierCallback(method("granet"), module="net"), Skipping()
    fit(lightning_trainer(callback), module)
    assert callback.sparsifier.steps == TOTAL


@every_method
def test_transformers_resumes_exactly_from_the_middle_of_an_epoch(name: str, tmp_path: Path) -> None:
    whole = by_transformers(name, tmp_path, save_strategy="steps", save_steps=5)
    callback = with_transformers.SparsifierCallback(method(name), module="net")
    trainer = transformers_trainer(callback, tmp_path, seed=1)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert Outcome.of(trainer.model.net, callback.sparsifier) == whole == by_three_lines(name)


@every_method
def test_accelerate_resumes_exactly(name: str, tmp_path: Path) -> None:
    first = Accelerated(name).train(end=1)
    first.accelerator.save_state(str(tmp_path / "state"))
    whole = first.train(start=1).outcome
    second = Accelerated(name, seed=1)
    second.accelerator.load_state(str(tmp_path / "state"))
    assert second.train(start=1).outcome == whole == by_three_lines(name)


def test_transformers_loads_the_masks_of_the_best_checkpoint(tmp_path: Path) -> None:
    callback = with_transformers.SparsifierCallback(method("granet"), module="net")
    trainer = transformers_trainer(
        callback,
        tmp_path,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=3,
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="step_reached",
        greater_is_better=False,
    )
    trainer.compute_metrics = lambda _: {"step_reached": trainer.state.global_step}  # the first is the best
    trainer.train()
    assert callback.sparsifier.steps == 3
    weights = dict(trainer.model.net.named_parameters())
    assert not any(bool(weights[name][~mask].any()) for name, mask in callback.sparsifier.masks.items())
    assert callback.sparsifier.density > 0.25


# ---- what does not fit is refused


@pytest.mark.parametrize("library", ["lightning", "transformers", "accelerate"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"granet.adapters.{library}")
    with pytest.raises(UsageError, match=rf"cannot be imported.*Install it with: pip install 'granet\[{library}\]'"):
        importlib.import_module(f"granet.adapters.{library}")


def test_a_method_is_checked_before_anything_runs() -> None:
    for callback in (with_lightning.SparsifierCallback, with_transformers.SparsifierCallback):
        with pytest.raises(UsageError, match="not a method"):
            callback("granet")
        with pytest.raises(UsageError, match="before training begins"):
            callback(GraNet(density=0.1)).sparsifier  # noqa: B018


def test_several_optimizers_are_refused() -> None:
    class Two(Manual):
        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [optimizer_of(self.net), optimizer_of(self.net)]

    with pytest.raises(UsageError, match=r"need one optimizer.*got 2 optimizers"):
        by_lightning("granet", module=Two())


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match=r"does not know how many steps.*total_steps to the callback"):
        by_lightning("granet", max_epochs=-1)


def test_an_unknown_module_is_refused(tmp_path: Path) -> None:
    callback = with_lightning.SparsifierCallback(method("granet"), module="nets")
    with pytest.raises(UnknownNameError, match="Did you mean 'net'"):
        fit(lightning_trainer(callback), Module())
    other = with_transformers.SparsifierCallback(method("granet"), module="nets")
    with pytest.raises(UnknownNameError, match="Did you mean 'net'"):
        transformers_trainer(other, tmp_path).train()


def test_an_optimizer_that_was_not_prepared_is_refused() -> None:
    run = Accelerated("granet")
    with pytest.raises(UsageError, match="was not prepared"):
        with_accelerate.prepare(run.accelerator, run.net, optimizer_of(run.net), method("granet"), total_steps=9)


def test_parameters_that_are_spread_over_processes_are_refused() -> None:
    class FullyShardedDataParallel(nn.Sequential):
        pass

    run = Accelerated("granet")
    with pytest.raises(UsageError, match="spread over processes; got FullyShardedDataParallel"):
        with_accelerate.prepare(
            run.accelerator, FullyShardedDataParallel(run.net), run.optimizer, method("granet"), total_steps=9
        )


def test_gradients_that_are_cleared_too_early_are_reported() -> None:
    class Early(Manual):
        def training_step(self, batch: dict[str, torch.Tensor]) -> None:
            super().training_step(batch)
            self.optimizers().zero_grad()

    with pytest.raises(UsageError, match="no gradient to grow by"):
        by_lightning("granet", module=Early())


def lightning_checkpoint(folder: Path, *callbacks: lightning.Callback) -> Path:
    trainer = lightning_trainer(*callbacks, max_epochs=1)
    fit(trainer, Module())
    trainer.save_checkpoint(folder / "one.ckpt")
    return folder / "one.ckpt"


def test_a_dense_checkpoint_of_lightning_is_refused(tmp_path: Path) -> None:
    path = lightning_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="not at the same step; got no sparsifier; expected step 4"):
        fit(lightning_trainer(with_lightning.SparsifierCallback(method("granet"))), Module(), ckpt_path=path)


def test_other_settings_than_those_of_the_run_are_refused(tmp_path: Path) -> None:
    callback = with_lightning.SparsifierCallback(method("granet"), total_steps=TOTAL)
    path = lightning_checkpoint(tmp_path, callback)
    other = with_lightning.SparsifierCallback(GraNet(density=0.5, interval=2, end=8), seed=3)
    with pytest.raises(UsageError, match=r"other settings; got density 0\.5, seed 3; expected density 0\.2, seed 0"):
        fit(lightning_trainer(other), Module(), ckpt_path=path)


def test_a_trainer_planned_longer_is_refused_unless_total_steps_are_given(tmp_path: Path) -> None:
    path = lightning_checkpoint(tmp_path, with_lightning.SparsifierCallback(method("granet"), total_steps=TOTAL))
    with pytest.raises(UsageError, match="got total_steps 16; expected total_steps 12"):
        fit(
            lightning_trainer(with_lightning.SparsifierCallback(method("granet")), max_epochs=4),
            Module(),
            ckpt_path=path,
        )
    callback = with_lightning.SparsifierCallback(method("granet"), total_steps=TOTAL)
    fit(lightning_trainer(callback, max_epochs=4), Module(), ckpt_path=path)
    assert callback.sparsifier.steps == 16


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Trainer's folder with a checkpoint at step 5 in it."""
    folder = tmp_path_factory.mktemp("saved")
    by_transformers("granet", folder, save_strategy="steps", save_steps=5)
    return folder


def resumed(folder: Path, checkpoint: Path, **settings: object) -> Outcome:
    callback = with_transformers.SparsifierCallback(method("granet"), module="net", **settings)  # type: ignore[arg-type]
    trainer = transformers_trainer(callback, folder, seed=1)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return Outcome.of(trainer.model.net, callback.sparsifier)


def test_a_checkpoint_elsewhere_is_found_by_resume_from(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no state of a sparsifier.*resume_from=FOLDER"):
        resumed(tmp_path, saved / "checkpoint-5")
    assert resumed(tmp_path, saved / "checkpoint-5", resume_from=saved / "checkpoint-5") == by_three_lines("granet")


def test_the_masks_of_another_run_are_refused(saved: Path, tmp_path: Path) -> None:
    by_transformers("granet", tmp_path, save_strategy="steps", save_steps=5, max_grad_norm=0.1)
    with pytest.raises(UsageError, match="do not belong to the weights that were loaded"):
        resumed(tmp_path, saved / "checkpoint-5")


def rewritten(saved: Path, folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> Path:
    source = saved / "checkpoint-5" / with_transformers.FILE
    with safetensors.safe_open(source, framework="pt") as file:
        head, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, head)
    (folder / with_transformers.FILE).write_bytes(safetensors.torch.save(tensors, metadata=head))
    return folder


def _another_format(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    head["format"] = "2"


def _a_layer_less(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    del tensors["masks/conv1.weight"]


def _too_short(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    tensors["masks/conv1.weight"] = tensors["masks/conv1.weight"][:-1]


def _never_explored(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    tensors["explored/conv1.weight"] = torch.zeros_like(tensors["explored/conv1.weight"])


def _no_settings(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    head["settings"] = "[]"


def _negative_shape(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    head["shapes"] = json.dumps({name: [-1] for name in json.loads(head["shapes"])})


def _a_field_too_many(tensors: dict[str, torch.Tensor], head: dict[str, str]) -> None:
    tensors["extra/conv1.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    "change",
    [_another_format, _a_layer_less, _too_short, _never_explored, _no_settings, _negative_shape, _a_field_too_many],
)
def test_a_damaged_state_is_refused(
    change: Callable[[dict[str, torch.Tensor], dict[str, str]], None], saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError):
        resumed(tmp_path, saved / "checkpoint-5", resume_from=rewritten(saved, tmp_path, change))


def test_a_truncated_file_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "checkpoint-5" / with_transformers.FILE).read_bytes()
    (tmp_path / with_transformers.FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=with_transformers.FILE):
        resumed(tmp_path, saved / "checkpoint-5", resume_from=tmp_path)


def test_masks_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    run = Accelerated("rigl").train(end=1)
    state = run.prepared.state_dict()
    with torch.no_grad():
        run.net.get_parameter("layer1.0.conv1.weight").fill_(1)
    with pytest.raises(UsageError, match="do not belong to these weights"):
        run.prepared.load_state_dict(state)


def test_notes_of_an_update_become_warnings() -> None:
    run = Accelerated("rigl")
    step = run.optimizer.step

    def step_without_gradients() -> None:
        for parameter in run.net.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        step()

    run.optimizer.step = step_without_gradients
    with pytest.warns(RuntimeWarning, match="all gradients were zero"):
        run.train(end=1)


# ---- several processes

RANKS = """
import os, sys, torch
from torch.nn import functional as F
from granet.errors import TrainingError
from tests.adapted import Accelerated
from granet.masks import mapping as masking

run = Accelerated(sys.argv[1], parts=2)
assert run.accelerator.num_processes == 2 and type(run.model).__name__ == "DistributedDataParallel"
run.train(end=2)
state = run.prepared.state_dict()
print("MASKS", masking.digest(run.prepared.sparsifier.masks), run.prepared.sparsifier.steps, flush=True)
if run.accelerator.process_index == 1:
    name = "layer1.0.conv1.weight"
    state["masks"][name] = torch.zeros_like(state["masks"][name])
    with torch.no_grad():
        dict(run.net.named_parameters())[name].zero_()
try:
    run.prepared.load_state_dict(state)
except TrainingError as error:
    print("ERROR", error, flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # threads of gloo that are left now and then abort an interpreter that ends in the ordinary way
"""


def test_ranks_with_different_masks_stop(tmp_path: Path) -> None:
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(Path(__file__).parents[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, "granet"],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], answers
    masks = [[line for line in out.splitlines() if line.startswith("MASKS")] for out, _ in answers]
    assert masks[0] == masks[1]
    assert len(masks[0]) == 1
    for out, _ in answers:
        assert "the ranks have different masks" in out
        assert "layer1.0.conv1.weight" in out
        assert "on rank 1" in out


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
