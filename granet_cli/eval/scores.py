"""``granet eval``: a checkpoint in torch, an exported model in ONNX Runtime, the same figures of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalResult:
    """What was measured, on which split of which dataset, after how many steps of training."""

    accuracy: float
    loss: float
    split: str
    examples: int
    data: str
    step: int


def checkpoint(
    file: Path, *, data: str | None, split: str, batch_size: int, device: str, model: str | None, follow_links: bool
) -> EvalResult:
    """Evaluate a checkpoint on a split of its dataset, or of the one that ``data`` names."""
    from granet.checkpoint import load
    from granet.training import open_data, resolve_device
    from granet.training.scoring import score
    from granet_cli.overrides import check_network, evaluated_on

    resolved = resolve_device(device)
    state = load(file)
    check_network(state, model)
    dataset = open_data(evaluated_on(state, data, follow_links=follow_links))
    result = score(state, dataset, split, device=resolved, batch_size=batch_size, factory=model)
    return EvalResult(result.accuracy, result.loss, split, result.examples, dataset.name, state.step)


def onnx(
    file: Path, *, data: str | None, split: str, batch_size: int, device: str, model: str | None, follow_links: bool
) -> EvalResult:
    """Evaluate an exported model; its metadata name the dataset that it was trained on."""
    from exporters import metadata, onnx_files, runtime
    from exporters.scoring import score
    from granet.data import SIZED, open_dataset
    from granet.errors import UsageError
    from granet.kernels import library
    from granet_cli.overrides import data_settings

    if model is not None:
        raise UsageError("an ONNX model needs no code to be confirmed", where="--model", remedy="leave it out")
    provider, options = _provider(device)
    origin = metadata.read_origin(onnx_files.read(file, external=False), where=str(file))
    settings = {} if data is None else data_settings(data, origin.data, {})
    name, folder = str(settings.get("data.name", origin.data)), settings.get("data.directory")
    dataset = open_dataset(
        name,
        directory=Path(str(folder)) if folder is not None else None,
        validation=origin.validation,
        seed=origin.seed,
        image_size=origin.network.image_size if name in SIZED else None,
        follow_links=follow_links,
    )
    kernels = provider == runtime.CPU and library.path() is not None
    session = runtime.open_session(file, provider=provider, options=options, kernels=kernels)
    result = score(session, origin.network, dataset, split, batch_size=batch_size)
    return EvalResult(result.accuracy, result.loss, split, result.examples, dataset.name, origin.step)


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """Return the execution provider of ONNX Runtime for a device, and its options."""
    from exporters import runtime
    from granet.errors import DeviceError

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError("unknown device", where="device", got=repr(device), expected="auto, cpu, cuda or cuda:N")
    if kind != "cuda":
        return runtime.CPU, {}
    return "CUDAExecutionProvider", {"device_id": index} if index else {}
