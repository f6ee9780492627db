"""An analysis as tables for a terminal, as JSON and as a picture."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visionrnn.analysis.measure import Analysis
from visionrnn.errors import MissingPackageError

MIB = 2**20
COUNTED = (
    "FLOPs: matrix products, convolutions (sparse ones too), attention and the recurrences of native code, a multiply-add as 2; "
    "not elementwise work, norms, sorting, gathering"
)


def print_tables(analysis: Analysis) -> None:
    """Prints parts, stages and memory. Raises MissingPackageError without rich."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise MissingPackageError("tables need rich, which is not installed; run: pip install rich") from error
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    for title, heading, rows in _tables(analysis):
        table = Table(title=title, title_justify="left")
        for name in heading:
            table.add_column(name, justify="left" if name in ("part", "stage") else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in notes(analysis):
        console.print(line, soft_wrap=True)


def _tables(analysis: Analysis) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    parts = [
        [p.name, f"{p.parameters:,}", _giga(p.operations), f"{1e3 * p.seconds:.2f}", f"{p.seconds / analysis.seconds:.0%}"]
        for p in analysis.parts
    ]
    parts.append(["whole model", f"{analysis.parameters:,}", _giga(analysis.operations), f"{1e3 * analysis.seconds:.2f}", ""])
    tables: list[tuple[str, tuple[str, ...], list[list[str]]]] = [("Parts", ("part", "parameters", "GFLOP", "ms", "share"), parts)]
    stages = []
    for cost in analysis.stages:
        scan = cost.scan
        size = "×".join(map(str, scan.window))
        levels = " → ".join(map(str, scan.levels))
        counts = [f"{scan.voxels_out}", f"{scan.blocks}", f"{scan.groups}", f"{scan.scanned_tokens}", f"{scan.tokens_per_voxel:.3f}"]
        times = [f"{1e3 * value:.2f}" for value in (cost.seconds, cost.scan_seconds, cost.merge_seconds)]
        stages.append(
            [scan.name, size, str(scan.group_size), levels, *counts, f"{cost.parameters:,}", _giga(cost.operations), *times],
        )
    if stages:
        heading = ("stage", "window", "group", "voxels", "out", "blocks", "groups", "tokens", "ratio", "parameters", "GFLOP")
        tables.append(("Stages of LION", (*heading, "ms", "scan", "merge"), stages))
    return tables


def _giga(operations: int) -> str:
    return f"{operations / 1e9:.3f}"


def notes(analysis: Analysis) -> list[str]:
    """Memory, what is counted and how it was timed, one line each."""
    process = "not told by this system" if analysis.process_peak is None else f"{analysis.process_peak / MIB:.0f} MiB"
    lines = [
        f"memory: weights {analysis.weights / MIB:.1f} MiB, tensors of a pass at most {analysis.tensor_peak / MIB:.1f} MiB at a time, "
        f"process over its start {process}",
        f"times: median of {analysis.repeats} passes without gradients, {analysis.about.get('threads')} threads",
        COUNTED + (". ratio: scanned tokens / voxels" if analysis.stages else ""),
    ]
    if analysis.not_counted:
        lines.append(f"not counted either: {', '.join(analysis.not_counted)}")
    return lines


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Plain values, as in the dataclasses; seconds and bytes."""
    return {**asdict(analysis), "parameters": analysis.parameters, "operations": analysis.operations, "counted": COUNTED}


def plot(analysis: Analysis, path: Path, title: str) -> None:
    """Bars of time by part; for LION also of time and voxels by stage. Raises MissingPackageError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError("the plot needs matplotlib, which is not installed; run: pip install 'visionrnn[viz]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = 3 if analysis.stages else 1
    figure, axes = pyplot.subplots(1, panels, figsize=(5 * panels, 4.2), layout="constrained", squeeze=False)
    figure.suptitle(title)
    _part_bars(axes[0, 0], analysis)
    if analysis.stages:
        _stage_bars(axes[0, 1], analysis)
        _voxel_bars(axes[0, 2], analysis)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _stack(axes: Any, names: list[str], layers: dict[str, list[float]]) -> None:
    """Stacked bars: a bar each name, a colour each layer."""
    bottom = [0.0] * len(names)
    for label, values in layers.items():
        axes.bar(names, values, bottom=bottom, label=label)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    axes.tick_params(axis="x", rotation=30)
    axes.set_ylim(0, 1.35 * max(*bottom, 1e-9))  # room for the legend
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.4)


def _part_bars(axes: Any, analysis: Analysis) -> None:
    _stack(axes, ["model"], {part.name: [1e3 * max(part.seconds, 0.0)] for part in analysis.parts})
    axes.set_xlim(-0.8, 1.6)  # room for the legend
    axes.set_ylabel("ms")
    axes.set_title("time by part")


def _stage_bars(axes: Any, analysis: Analysis) -> None:
    scan = [1e3 * cost.scan_seconds for cost in analysis.stages]
    merge = [1e3 * cost.merge_seconds for cost in analysis.stages]
    rest = [max(1e3 * cost.seconds - a - b, 0.0) for cost, a, b in zip(analysis.stages, scan, merge, strict=True)]
    _stack(axes, [cost.scan.name for cost in analysis.stages], {"operator blocks": scan, "merging": merge, "the rest": rest})
    axes.set_ylabel("ms")
    axes.set_title("time by stage")


def _voxel_bars(axes: Any, analysis: Analysis) -> None:
    depth = max(len(cost.scan.levels) for cost in analysis.stages)
    layers = {
        f"level {level + 1}": [float(dict(enumerate(cost.scan.levels)).get(level, 0)) for cost in analysis.stages] for level in range(depth)
    }
    _stack(axes, [cost.scan.name for cost in analysis.stages], layers)
    axes.set_ylabel("voxels")
    axes.set_title("voxels by stage and resolution")
