"""The committed table of compiled kernels: what is in it, what is promised of it, and what another compilation may differ by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from visionrnn.analysis.compiled import LARGEST_SHARED, Compilation, cache_key, launch_arguments, of_launch
from visionrnn.kernels.launch import jit_function
from visionrnn.testing.shipped import DTYPES, entries

PACKAGE = "visionrnn.kernels."
FIRST, OTHERS = slice(1), slice(1, None)  # candidates: what runs without tuning, and what tuning tries beside it
CLEAN = ("sm_90", "sm_100")  # no spills, no stack
# By how much a figure may be above the table's, as a part of it and an amount. Spills and stack are 0 on CLEAN targets in any case, and
# tensor-core instructions may not vanish.
TOLERANCE = {"registers": (0.1, 8), "shared": (0.0, 1024), "instructions": (0.1, 32), "spills": (0.1, 8), "stack": (0.1, 32)}
Figures = dict[str, Any]
Table = dict[str, dict[str, Figures]]  # kernel → "target type configuration" → figures


@dataclass(frozen=True)
class Job:
    """A compilation, and which candidate of its kernel it is: 0 is the one that runs."""

    compilation: Compilation
    candidate: int

    @property
    def kernel(self) -> str:
        return self.compilation.name.removeprefix(PACKAGE)

    @property
    def key(self) -> str:
        return f"{self.compilation.target} {self.compilation.dtype} {self.compilation.label}"


def kind(job: Job) -> tuple[str, str, str]:
    """Candidates are alternatives within one."""
    return job.kernel, job.compilation.target, job.compilation.dtype


def shipped_jobs(
    targets: Iterable[str], dtypes: Iterable[str], only: Iterable[str] = ("",), kernels: str = "", candidates: slice = FIRST
) -> list[Job]:
    """Every different compilation of the shipped forms, ``only`` as :func:`entries` takes it; ``kernels``: a part of the kernels' names."""
    found: dict[Compilation, Job] = {}
    for shipped, dtype in product(entries(only), dtypes):
        chosen = [target for target in targets if target in CLEAN or not shipped.variant]
        for stated in shipped.launches(DTYPES[dtype]):
            if kernels in stated.kernel:
                for (number, config), target in product(list(enumerate(stated.candidates))[candidates], chosen):
                    job = Job(of_launch(stated, config, target), number)
                    found.setdefault(job.compilation, job)
    return sorted(found.values(), key=lambda job: (job.kernel, job.compilation.dtype, job.compilation.target))


def changing_keys(target: str, sizes: Iterable[tuple[int, int]], only: Iterable[str] = ("",)) -> tuple[int, list[str]]:
    """How many kernels were asked, and those that Triton would compile again for other numbers of steps and sequences.

    A kernel's key is asked for every (length, batch) in ``sizes``, candidate by candidate.
    """
    found: dict[tuple, set[str]] = {}
    for shipped, (length, batch) in product(entries(only), list(sizes)):
        for i, stated in enumerate(replace(shipped, length=length, batch=batch).launches(torch.bfloat16)):
            for config in stated.candidates:
                key = cache_key(jit_function(stated.kernel), target, launch_arguments(stated, config, target))
                found.setdefault((shipped.name, i, stated.kernel, config.key()), set()).add(key)
    kernels = {kernel for _, _, kernel, _ in found}
    changing = [f"{kernel} in {name}, {config}: {len(keys)} keys" for (name, _, kernel, config), keys in found.items() if len(keys) > 1]
    return len(kernels), changing


def tabulated(results: Iterable[tuple[Job, Figures]]) -> Table:
    table: Table = {}
    for job, figures in results:
        table.setdefault(job.kernel, {})[job.key] = figures
    return {kernel: dict(sorted(rows.items())) for kernel, rows in sorted(table.items())}


def broken_promises(table: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """What no compilation may show, one line each; empty when all is well."""
    found, smallest = [], dict[tuple[str, str, str], int]()
    for kernel, key, figures in _rows(table):
        target, dtype, _ = key.split(" ", 2)
        if "error" in figures:
            found.append(f"{kernel} {key}: {figures['error']}")
            continue
        if target in CLEAN and (figures["spills"] or figures["stack"]):
            found.append(f"{kernel} {key}: {figures['spills']} spills, {figures['stack']} bytes of stack")
        if figures["products"] and not figures["tensor"] and dtype != "fp32" and target.startswith("sm_"):
            found.append(f"{kernel} {key}: multiplies matrices without tensor cores")
        if figures["atomics"]:
            found.append(f"{kernel} {key}: {figures['atomics']} atomic operations")
        kind = (kernel, target, dtype)
        smallest[kind] = min(smallest.get(kind, figures["shared"]), figures["shared"])
    for (kernel, target, dtype), shared in smallest.items():
        if shared > LARGEST_SHARED:
            found.append(f"{kernel} {target} {dtype}: no candidate below {LARGEST_SHARED} bytes of shared memory, the least takes {shared}")
    return found


def worse(table: Mapping[str, Mapping[str, Figures]], known: Mapping[str, Mapping[str, Figures]], complete: bool = True) -> list[str]:
    """What is worse than in the table ``known`` by more than TOLERANCE, or not in it where it is to be ``complete``."""
    found, absent = [], Counter[str]()
    for kernel, key, figures in _rows(table):
        before = known.get(kernel, {}).get(key)
        if before is None:
            absent[kernel] += complete
        elif "error" not in figures and "error" not in before:
            for name, (part, amount) in TOLERANCE.items():
                if figures[name] > before[name] * (1 + part) + amount:
                    found.append(f"{kernel} {key}: {name} {figures[name]}, in the table {before[name]}")
            if before["tensor"] and not figures["tensor"]:
                found.append(f"{kernel} {key}: no tensor-core instructions any more")
    return [*found, *(f"{kernel}: {number} compilations are not in the table" for kernel, number in absent.items() if number)]


def _rows(table: Mapping[str, Mapping[str, Figures]]) -> Iterator[tuple[str, str, Figures]]:
    for kernel, rows in table.items():
        for key, figures in rows.items():
            yield kernel, key, figures


def markdown(table: Mapping[str, Mapping[str, Figures]], targets: Iterable[str]) -> Iterator[str]:
    """A line for each kernel and type; a cell for each target: the most over its forms."""
    targets = list(targets)
    yield f"| kernel | type | {' | '.join(targets)} |"
    yield "|---|---" + "|---" * len(targets) + "|"
    for kernel, rows in table.items():
        family, *_, name = kernel.split(".")
        for dtype in sorted({key.split()[1] for key in rows}):
            cells = [[figures for key, figures in rows.items() if key.split()[:2] == [target, dtype]] for target in targets]
            yield f"| {family} `{name}` | {dtype} | {' | '.join(map(_cell, cells))} |"


def _cell(forms: list[Figures]) -> str:
    """Registers, KB of shared memory, occupancy, tensor-core instructions; spills where there are any."""
    if not forms or any("error" in figures for figures in forms):
        return "does not compile" if forms else ""
    most = {name: max(figures[name] for figures in forms) for name in ("registers", "shared", "tensor", "spills")}
    occupied = min(figures["occupancy"] for figures in forms)
    spilt = f", {most['spills']} spills" if most["spills"] else ""
    return f"{most['registers']}, {most['shared'] / 1024:.0f} KB, {occupied:.0%}, {most['tensor']}{spilt}"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def write(path: Path, table: Table, versions: Mapping[str, str]) -> None:
    """One line for each compilation."""
    head = {**versions, "tolerance": {name: list(value) for name, value in TOLERANCE.items()}}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    kernels = []
    for kernel, rows in table.items():
        entries = ",\n".join(f"   {json.dumps(key)}: {json.dumps(figures)}" for key, figures in rows.items())
        kernels.append(f"  {json.dumps(kernel)}: {{\n{entries}\n  }}")
    path.write_text("{\n" + "\n".join(lines) + '\n "kernels": {\n' + ",\n".join(kernels) + "\n }\n}\n")
