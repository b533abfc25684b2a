"""Shared libraries that ONNX Runtime's providers need, and which of them cannot be loaded on this machine.

ONNX Runtime replaces a provider that it cannot load by the CPU, and only logs the first missing library. Checking loads
libraries, so it is done in a short-lived process.
"""

from __future__ import annotations

import ctypes
import io
import re
import subprocess
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from exporters.bench.protocol import NAMES

_PROVIDERS = {
    "cpu": (),
    "cuda": ("libonnxruntime_providers_cuda.so",),
    "tensorrt": ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so"),
}

# What a library belongs to, by how its name begins; all others are CUDA's.
_PARTS = {
    "libcuda.so": "the NVIDIA driver",
    "libcudnn": "cuDNN 9",
    "libnvinfer": "TensorRT",
    "libnvonnxparser": "TensorRT",
}


def missing(provider: str) -> list[str]:
    """Return every library that ``provider`` needs and that cannot be loaded, each with what it belongs to."""
    if NAMES[provider] not in onnxruntime.get_available_providers():
        package = "onnxruntime" if provider == "cpu" else "onnxruntime-gpu"
        return [f"{NAMES[provider]} (not in this build of ONNX Runtime {onnxruntime.__version__}; {package} has it)"]
    if provider == "cpu":
        return []
    preload()
    needed = ["libcuda.so.1"]
    for name in _PROVIDERS[provider]:
        library = Path(onnxruntime.__file__).parent / "capi" / name
        if not library.exists():
            return [f"{name} (part of onnxruntime-gpu)"]
        needed += not_found(library)
    needed.append("libcudnn.so.9")  # ONNX Runtime loads it with the first convolution, so that no file declares it
    return [f"{name} ({_part(name)})" for name in dict.fromkeys(needed) if not _loads(name)]


def not_found(library: Path) -> list[str]:
    """Return the libraries that ``library`` depends on and that the loader does not find on its usual path.

    ``ldd`` lists all of them, the loader's own error only the first. Without ``ldd`` the list is empty, and the error
    of a session that does not get its provider has to do.
    """
    with suppress(OSError):
        done = subprocess.run(["ldd", library], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return re.findall(r"^\s*(\S+) => not found", done.stdout, flags=re.MULTILINE)
    return []


def preload() -> None:
    """Load the CUDA, cuDNN and TensorRT libraries that pip installed, which the loader would not find."""
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    spec = find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"):
            with suppress(OSError):
                ctypes.CDLL(str(Path(folder) / library), mode=ctypes.RTLD_GLOBAL)


def versions() -> dict[str, str]:
    """Return the versions of ONNX Runtime and of the libraries below it that can be asked for one."""
    found = {"onnxruntime": onnxruntime.__version__, "built_for_cuda": getattr(onnxruntime, "cuda_version", "") or ""}
    for key, library, function in (
        ("cudnn", "libcudnn.so.9", "cudnnGetVersion"),
        ("tensorrt", "libnvinfer.so.10", "getInferLibVersion"),
    ):
        with suppress(OSError, AttributeError):
            found[key] = str(getattr(ctypes.CDLL(library), function)())
    return {key: value for key, value in found.items() if value}


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _part(name: str) -> str:
    return next((part for start, part in _PARTS.items() if name.startswith(start)), "CUDA")
