"""Compiles the C kernels into a wheel. All that describes the package is in pyproject.toml.

A wheel has the kernels for every level of the processor that they are built for, and needs no compiler where it is
installed. Where none is at hand to build it, or the build fails, the wheel is made without them and says so. A checkout
(`pip install -e .`) compiles at first use instead, for the processor at hand.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

CPU = Path("openqwq", "kernels", "cpu")


class BuildWithKernels(build_py):
    kernels: list[Path] = []  # noqa: RUF012 - what the one build of this process made

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        spec = importlib.util.spec_from_file_location(
            "compiling", Path(__file__).resolve().parent / CPU / "compiling.py"
        )
        compiling = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiling)
        folder = Path(self.build_lib, CPU, "lib")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            BuildWithKernels.kernels = compiling.build_variants(folder)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"warning: this wheel has no compiled kernels: {error}", file=sys.stderr)


class WheelOfTheMachine(bdist_wheel):
    """With kernels inside: for any Python on this architecture. Without: for any machine."""

    def run(self) -> None:
        self.run_command("build_py")
        if BuildWithKernels.kernels:
            self.root_is_pure = False
            self.distribution.has_ext_modules = lambda: True  # the files go where auditwheel looks for libraries
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        _, _, machine = super().get_tag()
        return "py3", "none", machine


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfTheMachine})
