"""Where the native library is, and its registration with sessions of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from granet.errors import UsageError

_LIBRARY = Path(__file__).with_name("libgranet_kernels.so")

MISSING = "granet was installed without its kernels: there was no C++ compiler, or no build for this platform"
"""Why :func:`path` returns None."""


class SessionOptions(Protocol):
    """``onnxruntime.SessionOptions``."""

    def register_custom_ops_library(self, path: str, /) -> None:
        """Load a library and register its operators."""


def path() -> Path | None:
    """Return the path of the library; None when there is none, for the reason ``MISSING``."""
    return _LIBRARY if _LIBRARY.is_file() else None


def register(options: SessionOptions) -> None:
    """Register the kernels, so that sessions with these options run islands of sparse layers by them.

    Raises:
        UsageError: there is no library.
    """
    found = path()
    if found is None:
        raise UsageError(MISSING, remedy="run `python kernels/build.py` in a checkout, or install granet where g++ is")
    options.register_custom_ops_library(str(found))
