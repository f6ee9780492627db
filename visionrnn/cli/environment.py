"""What ``visionrnn doctor`` reports: packages and whether they import, devices, back ends, gaps and conflicts, as plain values."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any

SYSTEM_LIBRARIES = {"libusb-1.0.so.0": "libusb-1.0-0", "libGL.so.1": "libgl1", "libgomp.so.1": "libgomp1", "libEGL.so.1": "libegl1"}
KEPT_HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


@dataclass(frozen=True)
class Package:
    """One line of the report: a distribution, what it is for, the statement that proves it works, and how to get it."""

    name: str
    purpose: str
    statement: str
    requirement: str  # what pip is asked for, as in pyproject.toml
    alternatives: tuple[str, ...] = ()  # other distributions that provide the same module
    cuda_only: bool = False  # not missed where there is no CUDA device


PACKAGES = (
    Package("torch", "everything", "import torch", "torch>=2.6"),
    Package("numpy", "everything", "import numpy", "numpy>=1.24"),
    Package("torchvision", "needed by timm", "import torchvision.ops", "torchvision"),
    Package("timm", "image models", "import timm", "timm>=1.0"),
    Package("triton", "GPU kernels", "import triton", "triton", cuda_only=True),
    Package("mmengine", "training", "import mmengine.runner", "mmengine>=0.10.7,<1"),
    Package("mmcv", "detectors", "import mmcv", "mmcv-lite>=2.1,<2.2", ("mmcv-lite",)),
    Package("mmdet", "detectors", "import visionrnn.integrations.mmdet3d, mmdet.models", "mmdet>=3.3,<3.4"),
    Package("mmdet3d", "detectors", "import visionrnn.integrations.mmdet3d, mmdet3d.models", "mmdet3d==1.4.0"),
    Package("numba", "needed by mmdet3d", "import numba", "numba"),
    Package("spconv", "sparse convolution on CUDA", "import spconv.pytorch", "spconv", ("spconv-cu126", "spconv-cu120"), cuda_only=True),
    Package("open3d", "3D viewer of mmdet3d", "import open3d", "open3d"),
    Package("matplotlib", "pictures", "import matplotlib.pyplot", "matplotlib"),
    Package("scikit-learn", "handwritten digits", "import sklearn.datasets", "scikit-learn"),
)


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def inspect_environment(packages: tuple[Package, ...] = PACKAGES) -> dict[str, Any]:
    """The whole report. Each installed package is imported in a process of its own, so a broken one cannot disturb the report."""
    rows = {package.name: _inspect_package(package) for package in packages}
    present = [package for package in packages if rows[package.name]["version"]]
    core = Package("visionrnn", "everything", "import visionrnn.kernels, visionrnn.operators, visionrnn.backbones", "")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        core_error, *errors = pool.map(_import_error, [core, *present])
    for package, error in zip(present, errors, strict=True):
        rows[package.name]["error"] = error
    lacking = [package for package in packages if rows[package.name]["version"] is None]
    needed = ("torch", "numpy")
    core_works = core_error is None and all(rows[n]["version"] and not rows[n]["error"] for n in needed if n in rows)
    return {
        "visionrnn": installed("visionrnn") or "not installed, runs from its folder",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "core_works": core_works,
        "core_error": core_error,
        "packages": rows,
        "devices": _devices() if core_works else {},
        "backends": _backends() if core_works else {},
        "native": _native() if core_works else None,
        "missing": [
            {"package": package.name, "purpose": package.purpose, "command": f"pip install '{package.requirement}'"}
            for package in lacking
            if not package.cuda_only or _has_cuda(core_works)
        ],
        "broken": [{"package": name, "error": row["error"], "remedy": remedy(row["error"])} for name, row in rows.items() if row["error"]],
        "conflicts": list(find_conflicts({row["distribution"]: row["version"] for row in rows.values() if row["version"]})),
    }


def _inspect_package(package: Package) -> dict[str, Any]:
    found = [name for name in (package.name, *package.alternatives) if installed(name)]
    name = found[0] if found else package.name
    return {"distribution": name, "version": installed(name), "also_installed": found[1:], "error": None, "purpose": package.purpose}


def _import_error(package: Package) -> str | None:
    """Last line that ``python -c statement`` prints when it fails; None when it works."""
    command = [sys.executable, "-W", "ignore", "-c", package.statement]
    search_path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": search_path, "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    except subprocess.TimeoutExpired:
        return "the import did not end within 180 s"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"the import ended with exit code {done.returncode}")


def remedy(error: str) -> str:
    """What to do about an import error: for a library of the operating system, how Debian and Ubuntu install it."""
    library = error.removeprefix("ImportError: ").removeprefix("OSError: ").partition(":")[0]
    if "cannot open shared object file" not in error:
        return "see Conflicts; if there is none, install the package again"
    if library in SYSTEM_LIBRARIES:
        return f"a library of the operating system is missing; on Debian and Ubuntu: apt-get install {SYSTEM_LIBRARIES[library]}"
    return f"a library of the operating system is missing: {library}; install it with the system's package manager"


def find_conflicts(versions: dict[str, str]) -> Iterator[str]:
    """Requirements among the given distributions (name → version) that the installed versions break, one sentence each."""
    if versions.get("mmcv") and installed("mmcv-lite"):
        yield "mmcv and mmcv-lite are both installed and overwrite each other; run: pip uninstall mmcv mmcv-lite, then install one of them"
    if "mmdet3d" in versions and versions.get("numpy", "1").split(".")[0] != "1":
        yield f"mmdet3d needs numpy < 2, found {versions['numpy']}; run: pip install 'numpy<2'"
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for name, version in versions.items():
        for text in (metadata.requires(name) if installed(name) else None) or ():
            need = Requirement(text)
            found = versions.get(need.name) or installed(need.name)
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            if applies and found and not need.specifier.contains(found, prereleases=True):
                yield f"{name} {version} needs {need.name}{need.specifier}, found {found}; run: pip install '{need.name}{need.specifier}'"
    limits = {"mmcv": ">=2.0.0rc4,<2.2.0", "mmcv-lite": ">=2.0.0rc4,<2.2.0", "mmdet": ">=3.0.0,<3.4.0", "mmengine": ">=0.7.1,<1.0.0"}
    for name, limit in limits.items() if "mmdet3d" in versions else ():
        if name in versions and not Requirement(f"{name}{limit}").specifier.contains(versions[name], prereleases=True):
            yield f"mmdet3d refuses {name} {versions[name]} when imported; run: pip install '{name}{limit}'"


def _has_cuda(torch_works: bool) -> bool:
    if not torch_works:
        return False
    import torch

    return torch.cuda.is_available()


def _devices() -> dict[str, Any]:
    """CPU (threads, instruction set, memory in GiB, allocator) and CUDA devices as torch sees them."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    cuda = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "memory_gib": memory and round(memory, 1),
            "kept_heap": all(os.environ.get(key) == value for key, value in KEPT_HEAP.items()),
        },
        "cuda_build": torch.version.cuda,
        "cuda": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in cuda],
    }


def _native() -> str:
    """Which build of the native CPU library runs here, or how to get it."""
    from visionrnn.kernels import native

    return native.build_name() or native.HOW_TO_BUILD


def _backends() -> dict[str, dict[str, Any]]:
    """Kernel family → back ends that can be asked for, and what ``backend="auto"`` takes on each device type."""
    from visionrnn.kernels import dispatch

    report = {}
    for family in dispatch.FAMILIES:
        names = dispatch.available_backends(family)
        auto = {device: next((n for n in order if n in names), None) for device, order in dispatch.PREFERENCE.items()}
        report[family] = {"available": list(names), "auto": auto}
    return report
