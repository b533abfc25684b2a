"""What ONNX Runtime's providers need to be loaded, library by library, and what of it is missing here.

ONNX Runtime replaces a provider that it cannot load by the CPU, with a line on standard error. So this is asked first,
in a process that ends soon: looking means loading.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from exporters.bench.protocol import NAMES

_OURS = {
    "cpu": (),
    "cuda": ("libonnxruntime_providers_cuda.so",),
    "tensorrt": ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so"),
}

# What a library is part of, by how its name begins; the first that fits.
_PARTS = (
    ("libcuda.so", "the NVIDIA driver"),
    ("libcudart", "the CUDA runtime"),
    ("libcublas", "cuBLAS, part of CUDA"),
    ("libcurand", "cuRAND, part of CUDA"),
    ("libcufft", "cuFFT, part of CUDA"),
    ("libnvrtc", "NVRTC, part of CUDA"),
    ("libcudnn", "cuDNN 9"),
    ("libnvinfer", "TensorRT"),
    ("libnvonnxparser", "TensorRT"),
)
_NEEDED, _DYNAMIC = 1, 6


def missing(provider: str) -> list[str]:
    """What the provider needs and this machine lacks, in words; empty when all is there."""
    if NAMES[provider] not in onnxruntime.get_available_providers():
        package = "onnxruntime" if provider == "cpu" else "onnxruntime-gpu"
        return [f"{NAMES[provider]} (not in this build of ONNX Runtime {onnxruntime.__version__}; {package} has it)"]
    folder = Path(onnxruntime.__file__).parent / "capi"
    needed: dict[str, None] = {"libcuda.so.1": None} if provider != "cpu" else {}
    for library in _OURS[provider]:
        if not (folder / library).exists():
            return [f"{library} (part of onnxruntime-gpu)"]
        needed |= dict.fromkeys(name for name in dependencies(folder / library) if _part(name))
    if provider != "cpu":
        needed["libcudnn.so.9"] = None  # loaded only when the first convolution is made
        preload()
    return [f"{name} ({_part(name)})" for name in needed if not _loads(name)]


def preload() -> None:
    """Loads the CUDA, cuDNN and TensorRT libraries that pip installed, where no loader would look for them."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    spec = find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"):
            with suppress(OSError):
                ctypes.CDLL(str(Path(folder) / library), mode=ctypes.RTLD_GLOBAL)


def dependencies(library: Path) -> list[str]:
    """The shared libraries that an ELF file of 64 bits asks the loader for; none for another kind of file."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:5] != b"\x7fELF\x02":
            return []
        offset, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
        sections = [struct.unpack_from("<IIQQQQII", data, offset + n * size) for n in range(count)]
        names = []
        for _, kind, _, _, start, length, link, _ in sections:
            if kind != _DYNAMIC:
                continue
            strings = sections[link][4]
            for at in range(start, start + length, 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                if tag == _NEEDED:
                    begin = strings + value
                    names.append(data[begin : data.find(b"\0", begin)].decode("ascii", "replace"))
        return names


def versions() -> dict[str, str]:
    """Versions of ONNX Runtime and of the libraries below it that can be asked."""
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


def _part(name: str) -> str | None:
    return next((part for start, part in _PARTS if name.startswith(start)), None)
