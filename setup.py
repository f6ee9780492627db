"""Package list. The folders kernels/ and configs/ of the checkout are installed as visionrnn.kernels and visionrnn.configs."""

from pathlib import Path

from setuptools import find_packages, setup

mapped = ["visionrnn.kernels", "visionrnn.configs"]  # also reachable through links in visionrnn/, which must not be packed twice
packages = find_packages(include=["visionrnn", "visionrnn.*"], exclude=[*mapped, *(f"{name}.*" for name in mapped)])
packages += [*mapped, *(f"visionrnn.kernels.{name}" for name in find_packages("kernels"))]
config_files = [path.relative_to("configs").as_posix() for path in Path("configs").rglob("*.py")]

setup(
    packages=packages,
    package_dir={"visionrnn.kernels": "kernels", "visionrnn.configs": "configs"},
    package_data={"visionrnn.configs": config_files, "visionrnn": ["py.typed"]},
    include_package_data=False,
)
