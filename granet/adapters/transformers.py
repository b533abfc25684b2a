"""The sparsifier as a callback of the Trainer of transformers.

Where it acts: ``on_optimizer_step``, which comes after ``optimizer.step()`` and before gradients are cleared, once for
each step that ``state.global_step`` counts: accumulated batches do not advance the clock, a step that a gradient
scaler skipped does.

``trainer_state.json`` is no place for tensors, so the state is a file of its own in the checkpoint's folder, written
when the rest is there. It names the weights that it belongs to by a hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from granet.adapters.binding import Binding, refuse_sharded_type
from granet.adapters.optional import requires
from granet.adapters.state import pack, unpack_into
from granet.errors import CheckpointError, UsageError
from granet.files import atomic
from granet.methods.base import Method

with requires("transformers", extra="transformers", torchvision=True):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "granet.safetensors"
"""The state of the sparsifier in a checkpoint's folder."""


class SparsifierCallback(Binding, TrainerCallback):  # type: ignore[misc]  # of a library that type checkers do not follow
    """Keeps the model of a Trainer sparse while it trains.

        trainer = transformers.Trainer(model, args, callbacks=[SparsifierCallback(granet.methods.GraNet(density=0.1))])

    ``trainer.train(resume_from_checkpoint=...)`` resumes from the state in that folder. With
    ``load_best_model_at_end`` the masks are those of the best checkpoint afterwards, as the weights are.

    Args:
        method: one of ``granet.methods``.
        resume_from: the folder of the checkpoint, if it is neither ``args.resume_from_checkpoint`` nor the folder
            ``checkpoint-STEP`` of ``args.output_dir``: the Trainer does not tell its callbacks.
        settings: those of ``granet.adapters.binding.Binding``; ``total_steps`` is ``state.max_steps`` when left out.

    Raises:
        UsageError: not a method; and when training begins whatever does not fit: parameters that are spread over
            processes, a checkpoint without a sparsifier or with another one.
    """

    def __init__(self, method: Method, *, resume_from: str | Path | None = None, **settings: Any) -> None:
        super().__init__(method, **settings)
        self._resume_from = resume_from

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002  the Trainer passes it by position
        *,
        model: nn.Module,
        optimizer: object,
        **_: object,
    ) -> None:
        """Make the sparsifier, once model and optimizer have been restored."""
        accelerator_state = getattr(optimizer, "accelerator_state", None)
        refuse_sharded_type(getattr(getattr(accelerator_state, "distributed_type", None), "name", "NO"))
        if self._sparsifier is not None:
            self._sparsifier.close()
        self._find_parameters(model)
        saved, where = None, ""
        if state.global_step > 0:
            path = self._find(args, state)
            saved, where = _load(path, self._parameters), str(path)
            if saved["step"] != state.global_step:
                raise UsageError(
                    "the trainer and the sparsifier are not at the same step",
                    where=where,
                    got=f"step {saved['step']}",
                    expected=state.global_step,
                )
        self._bind(model, optimizer, steps=state.max_steps, state=saved, where=where)

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        """Step the sparsifier."""
        self._advance()

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """Write the state into the folder that the Trainer has just written."""
        if args.should_save:
            folder = _folder(args, state)
            if not folder.is_dir():
                raise UsageError(
                    "there is no checkpoint to add the sparsifier to",
                    where=folder,
                    remedy="a search over hyperparameters, which saves elsewhere, cannot be resumed sparse",
                )
            atomic.write(folder / FILE, _bytes(pack(self.sparsifier), _hash(self._parameters.values())))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """Remove the optimizer hooks; load the masks of the best weights if the Trainer loaded these."""
        self.sparsifier.close()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            path = Path(state.best_model_checkpoint) / FILE
            unpack_into(self.sparsifier, _load(path, self._parameters), self._parameters, where=str(path))
        self._warn_if_not_masked("at the end of training")

    def _find(self, args: TrainingArguments, state: TrainerState) -> Path:
        """Return the file of the checkpoint that the Trainer resumed from."""
        if self._resume_from is not None:
            folders = [Path(self._resume_from)]
        else:
            said = args.resume_from_checkpoint
            folders = [Path(said)] if isinstance(said, str) and Path(said).is_dir() else []
            folders.append(_folder(args, state))
        for folder in folders:
            if (folder / FILE).exists():
                return folder / FILE
        raise UsageError(
            "the checkpoint has no state of a sparsifier",
            where=" or ".join(map(str, folders)),
            got=f"a trainer at step {state.global_step}, but no {FILE}",
            remedy="give the callback resume_from=FOLDER, that of the checkpoint; to start from trained weights, load "
            "them into the model and train without resume_from_checkpoint",
        )


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _hash(weights: Iterable[Tensor]) -> str:
    """Return a hash of the bytes of ``weights`` in logical order, the same on every device."""
    state = blake2b(digest_size=16)
    for weight in weights:
        state.update(weight.detach().reshape(-1).cpu().view(torch.uint8).numpy().data)
    return state.hexdigest()


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for field in ("masks", "explored", "momenta"):
        for name, tensor in state[field].items():
            yield f"{field}/{name}", tensor.contiguous()


def _bytes(state: Mapping[str, Any], weights: str) -> bytes:
    text = {field: json.dumps(state[field]) for field in ("format", "step", "shapes")}
    head = {**text, "settings": state["settings"], "weights": weights}
    return safetensors.torch.save(dict(_tensors(state)), metadata=head)


def _load(path: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """Read the state that ``pack`` returned from the file at ``path``.

    Raises:
        CheckpointError: not such a file, or a damaged one.
        UsageError: the file belongs to other weights than those that were loaded.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        state: dict[str, Any] = {field: json.loads(head[field]) for field in ("format", "step", "shapes")}
        state |= {"settings": head["settings"], "masks": {}, "explored": {}, "momenta": {}}
        weights = head["weights"]
        for key, tensor in tensors.items():
            field, name = key.split("/", 1)
            state[field][name] = tensor
    except (safetensors.SafetensorError, OSError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError("not the state of a sparsifier, or a damaged one", where=path, got=error) from error
    if weights != _hash(parameters.values()):
        raise UsageError(
            "the masks do not belong to the weights that were loaded",
            where=path,
            remedy="give the callback resume_from=FOLDER, that of the checkpoint that the Trainer resumes from",
        )
    return state
