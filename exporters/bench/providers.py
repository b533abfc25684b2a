"""ONNX Runtime's providers: names, number formats, options, and the packages that bring them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec

from granet.errors import BenchmarkError, UnknownNameError, UsageError

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("fp32",),
    "cuda": ("fp32", "tf32"),
    "tensorrt": ("fp32", "tf32", "fp16"),
}
"""Provider -> formats in which it can compute what a file holds as fp32, the default first."""

_MANAGED = frozenset(
    {
        *("device_id", "user_compute_stream", "has_user_compute_stream", "enable_cuda_graph", "use_tf32"),
        *("trt_cuda_graph_enable", "trt_fp16_enable", "trt_sparsity_enable", "trt_engine_cache_enable"),
        *("trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path"),
    }
)


def check_name(name: str) -> None:
    """Raise UnknownNameError, with the nearest name, for a provider that does not exist."""
    choices = (*PRECISIONS, "auto")
    if name not in choices:
        raise UnknownNameError("provider", name, choices, where="--provider")


def check_packages() -> str:
    """Return the name and version of the one installed package of ONNX Runtime.

    Raises:
        BenchmarkError: there is none; or several, of which the one installed last has overwritten the others.
    """
    runtimes = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    if len(runtimes) > 1:
        raise BenchmarkError(
            "several packages of ONNX Runtime are installed over one another, and it is not known which one runs",
            got=" and ".join(runtimes),
            remedy="uninstall all of them, then install one",
        )
    if find_spec("onnxruntime") is None:
        raise BenchmarkError("ONNX Runtime is not installed", remedy="install onnxruntime-gpu, or onnxruntime")
    return f"{runtimes[0]} {metadata.version(runtimes[0])}" if runtimes else "onnxruntime, not installed as a package"


def check_present(provider: str, lacking: Sequence[str]) -> None:
    """Raise BenchmarkError with every library in ``lacking``, those that the provider needs and this machine lacks."""
    if lacking:
        raise BenchmarkError(
            f"ONNX Runtime cannot run on {provider} here",
            where=f"--provider {provider}",
            got=f"missing: {', '.join(lacking)}",
            remedy="install CUDA and cuDNN with pip install 'onnxruntime-gpu[cuda,cudnn]', driver and TensorRT from "
            "NVIDIA, or choose --provider cpu",
        )


def check_precision(provider: str, asked: str) -> None:
    """Check that the provider can compute in the format ``asked``.

    Raises:
        UnknownNameError: no such format.
        UsageError: the provider has another choice, or none.
    """
    every = tuple(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    if asked not in every:
        raise UnknownNameError("precision", asked, every, where="--precision")
    if asked not in PRECISIONS[provider]:
        raise UsageError(
            f"the provider {provider} has no such choice: it computes in the formats that the file holds",
            where="--precision",
            got=asked,
            expected=" or ".join(PRECISIONS[provider]),
            remedy="export the model with --compute fp16 and measure that file" if asked == "fp16" else None,
        )


def options(provider: str, precision: str, extra: Mapping[str, str], *, graph: bool) -> dict[str, str]:
    """Return the provider's options, as ONNX Runtime spells them, with the user's ``extra`` ones.

    With ``graph`` runs are captured as a CUDA graph and replayed.

    Raises:
        UsageError: an option for a provider that takes none, or one that is set here.
    """
    for name in extra:
        if provider == "cpu" or name in _MANAGED:
            reason = "the provider cpu takes no options" if provider == "cpu" else "this option is set by granet itself"
            raise UsageError(reason, where=f"--option {name}")
    chosen: dict[str, str] = {}
    if provider == "cuda":
        chosen = {
            "device_id": "0",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "use_tf32": str(int(precision == "tf32")),
            "arena_extend_strategy": "kSameAsRequested",  # by default memory grows in powers of two
            "enable_cuda_graph": str(int(graph)),
        }
    if provider == "tensorrt":
        chosen = {
            "device_id": "0",
            "trt_fp16_enable": str(int(precision == "fp16")),
            "trt_cuda_graph_enable": str(int(graph)),
            "trt_sparsity_enable": "0",
        }
    return chosen | dict(extra)
