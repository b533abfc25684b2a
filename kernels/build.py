"""Compile the kernels: ``python kernels/build.py`` puts the library where ``granet.kernels`` looks for it.

One compiler process for each file, as many at a time as there are processors. Needs g++ 12 or clang++ 14, nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE.parent / "granet" / "kernels" / "libgranet_kernels.so"

# Kernels may contract a product and a sum; files without kernels run on any processor of the architecture.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-maybe-uninitialized"]
ISA_FLAGS = {
    "x86_64": {
        "isa_plain": [],
        "isa_avx2": ["-mavx2", "-mfma"],
        "isa_avx512": ["-mavx512f", "-mfma", "-mprefer-vector-width=512"],
    },
    "aarch64": {"isa_plain": [], "isa_neon": []},
}


def compiler() -> str | None:
    """Return the C++ compiler: the variable CXX, else the first of g++, clang++, c++; None when there is none."""
    named = os.environ.get("CXX")
    return named or next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)


SANITIZE = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def build(target: Path = TARGET, *, fuzz: bool = False, extra: tuple[str, ...] = ()) -> None:
    """Compile the library to ``target``, or the program that fuzzes it.

    Args:
        target: the file to write; replaced only when everything compiled.
        fuzz: the program, without the operators of ONNX Runtime.
        extra: more flags, such as ``SANITIZE``.

    Raises:
        RuntimeError: there is no compiler, or it failed; the message has what it said.
    """
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler; install g++ or clang++, or set CXX")
    kinds = ISA_FLAGS.get(platform.machine(), {"isa_plain": []})
    hosts = ("ort_op", "c_api") if fuzz else ()
    sources = [
        path
        for path in sorted(HERE.glob("*.cpp"))
        if (path.stem in kinds or not path.stem.startswith("isa_")) and path.stem not in hosts
    ]
    with tempfile.TemporaryDirectory() as folder:

        def compile_one(source: Path) -> str:
            made = str(Path(folder) / f"{source.stem}.o")
            own = [*KERNEL_FLAGS, *kinds[source.stem]] if source.stem in kinds else []
            _run([*cxx.split(), *FLAGS, *own, *extra, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, [*sources, *([HERE / "fuzz" / "fuzz.cpp"] if fuzz else [])]))
        linked = Path(folder) / target.name
        _run([*cxx.split(), *([] if fuzz else ["-shared"]), *extra, *objects, "-o", str(linked), "-pthread"])
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy(linked, beside)
        beside.replace(target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", type=Path, default=TARGET)
    parser.add_argument("--fuzz", action="store_true", help="the program that fuzzes the library")
    parser.add_argument("--sanitize", action="store_true", help="with checks of addresses and undefined behaviour")
    arguments = parser.parse_args()
    try:
        build(arguments.target, fuzz=arguments.fuzz, extra=SANITIZE if arguments.sanitize else ())
    except RuntimeError as error:
        sys.exit(str(error))
