"""Package list, and the native CPU library. The folders kernels/ and configs/ are installed as visionrnn.kernels and visionrnn.configs."""

import runpy
import warnings
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path(__file__).resolve().parent / "kernels" / "native"
native = runpy.run_path(str(NATIVE / "build.py"))  # not imported: the package needs torch, building it does not


class BuildWithNative(build_py):
    """Also compiles the native library, in the checkout when it is installed for editing; without a compiler it is left out."""

    def run(self) -> None:
        super().run()
        if native["find_compiler"]() is None:
            warnings.warn("no C++ compiler found: visionrnn is installed without its native CPU library", stacklevel=1)
            return
        try:
            native["build"](NATIVE if self.editable_mode else Path(self.build_lib) / "visionrnn" / "kernels" / "native")
        except RuntimeError as error:
            warnings.warn(f"visionrnn is installed without its native CPU library, which did not compile:\n{error}", stacklevel=1)


class PlatformWheel(bdist_wheel):
    """The library has a plain C interface: one wheel per platform serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return native["find_compiler"]() is not None


mapped = ["visionrnn.kernels", "visionrnn.configs"]  # also reachable through links in visionrnn/, which must not be packed twice
packages = find_packages(include=["visionrnn", "visionrnn.*"], exclude=[*mapped, *(f"{name}.*" for name in mapped)])
packages += [*mapped, *(f"visionrnn.kernels.{name}" for name in find_packages("kernels"))]
config_files = [path.relative_to("configs").as_posix() for path in Path("configs").rglob("*.py")]

setup(
    packages=packages,
    package_dir={"visionrnn.kernels": "kernels", "visionrnn.configs": "configs"},
    package_data={
        "visionrnn.configs": config_files,
        "visionrnn": ["py.typed"],
        "visionrnn.kernels.native": ["*.cpp", "*.h"],  # so that the library can be built where the wheel had none
    },
    include_package_data=False,
    cmdclass={"build_py": BuildWithNative, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
