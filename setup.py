"""Package list. The folders kernels/ and configs/ at the top level are installed inside the package visionrnn."""

from pathlib import Path

from setuptools import find_packages, setup

packages = find_packages(include=["visionrnn", "visionrnn.*"], exclude=["visionrnn.kernels", "visionrnn.kernels.*"])
packages += ["visionrnn.kernels"] + [f"visionrnn.kernels.{name}" for name in find_packages("kernels")]
packages += ["visionrnn.configs"]
config_files = [str(path.relative_to("configs")) for path in Path("configs").rglob("*.py")]

setup(
    packages=packages,
    package_dir={"visionrnn.kernels": "kernels", "visionrnn.configs": "configs"},
    package_data={"visionrnn.configs": config_files, "visionrnn": ["py.typed"]},
)
