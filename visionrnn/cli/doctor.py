"""Print versions, devices, back ends, what is missing and how to get it.

Exit code 0 when the core (kernels, operators, backbones) works, 1 when it does not. Every installed package is
imported in a process of its own, which takes some seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from visionrnn.cli.environment import inspect_environment

USES = {  # packages each needs beside the core's
    "Image classifiers (train, test)": ("mmengine", "timm", "torchvision"),
    "Detectors (train, test, detect)": ("mmengine", "mmcv", "mmdet", "mmdet3d"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn doctor``."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the report; 0 when the core works, else 1."""
    report = inspect_environment()
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 0 if report["core_works"] else 1


def render(report: dict[str, Any]) -> str:
    """The report as aligned text, one section per question."""
    sections = [
        _section("visionrnn", [("version", report["visionrnn"]), ("python", f"{report['python']} on {report['platform']}")]),
        _section("Packages", [_package_row(name, row) for name, row in report["packages"].items()]),
        _section("Devices", list(_device_rows(report["devices"]))),
        _section("Kernel back ends", list(_backend_rows(report["backends"], report["native"]))),
        _section("Missing", [(row["package"], f"for {row['purpose']}", row["command"]) for row in report["missing"]], "nothing"),
        _section("Broken", [row for item in report["broken"] for row in _broken_rows(item)], "nothing"),
        _section("Conflicts", [(text,) for text in report["conflicts"]], "none"),
        _verdict(report),
    ]
    return "\n\n".join(sections)


def _section(title: str, rows: Sequence[tuple[str, ...]], empty: str = "not known: the core does not import") -> str:
    """A title and its rows, columns aligned; the last column is not padded."""
    rows = list(rows) or [(empty,)]
    widths = [max((len(row[i]) for row in rows if len(row) > i + 1), default=0) for i in range(max(map(len, rows)))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([title, *lines])


def _package_row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    if row["version"] is None:
        return name, "-", "absent", row["purpose"]
    note = row["purpose"]
    if row["distribution"] == "mmcv-lite":
        note += "; mmcv-lite, its compiled part is supplied by visionrnn"
    elif row["distribution"] != name:
        note += f"; {row['distribution']}"
    return name, row["version"], "FAILS" if row["error"] else "ok", note


def _broken_rows(item: dict[str, str]) -> list[tuple[str, ...]]:
    return [(item["package"], item["error"]), ("", item["remedy"])]


def _device_rows(devices: dict[str, Any]) -> list[tuple[str, ...]]:
    if not devices:
        return []
    cpu = devices["cpu"]
    memory = f", {cpu['memory_gib']} GiB" if cpu["memory_gib"] else ""
    heap = "keeps freed memory (fast)" if cpu["kept_heap"] else "default; see 'Speed on a CPU' in the README"
    cores = f"{cpu['threads']} threads on {cpu['cores']} cores, {cpu['capability']}{memory}"
    rows: list[tuple[str, ...]] = [("cpu", cores), ("malloc", heap)]
    if not devices["cuda"]:
        build = f"torch is built for CUDA {devices['cuda_build']}" if devices["cuda_build"] else "torch is a CPU build"
        return [*rows, ("cuda", f"no device; {build}")]
    return rows + [(f"cuda:{i}", f"{gpu['name']}, {gpu['memory_gib']} GiB") for i, gpu in enumerate(devices["cuda"])]


def _backend_rows(backends: dict[str, Any], native: str | None) -> list[tuple[str, ...]]:
    build: list[tuple[str, ...]] = [("native build", native)] if native else []
    return build + [
        (family, ", ".join(row["available"]), "auto: " + ", ".join(f"{name} on {device}" for device, name in row["auto"].items()))
        for family, row in backends.items()
    ]


def _verdict(report: dict[str, Any]) -> str:
    if not report["core_works"]:
        return f"The core does not work: {report['core_error'] or 'torch or numpy is missing or broken'}"
    broken = [item["package"] for item in report["broken"]]
    lines = ["Kernels, operators and backbones work."]
    for use, names in USES.items():
        ready = all(report["packages"][name]["version"] and name not in broken for name in names)
        lines.append(f"{use}: {'ready' if ready else 'not available'}.")
    if broken:
        lines.append(f"Installed but failing to import: {', '.join(broken)}.")
    return "\n".join(lines)
