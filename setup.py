"""Compile ``kernels/`` when granet is installed from source; where that fails, granet works without, and says so."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "kernels"))

from build import TARGET, build

LIBRARY = Extension("granet.kernels.libgranet_kernels", sources=[], optional=True)


class BuildKernels(build_ext):
    """The library, instead of an extension of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of the library below the package's root."""
        return str(Path(*fullname.split(".")[:-1]) / TARGET.name)

    def build_extension(self, ext: Extension) -> None:
        """Compile it; without a compiler leave it out."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            build(target)
        except RuntimeError as error:
            self.warn(f"granet is installed without its kernels for ONNX Runtime: {error}")

    def copy_extensions_to_source(self) -> None:
        """Copy it for editable installs, if there is one."""
        if Path(self.build_lib, self.get_ext_filename(LIBRARY.name)).exists():
            super().copy_extensions_to_source()


class PlatformWheel(bdist_wheel):
    """A wheel for a platform and any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag of wheels whose library does not know Python."""
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[LIBRARY], cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel})
