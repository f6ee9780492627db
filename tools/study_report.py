"""Table and plot of the results that ``tools/study.py`` wrote."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from visionrnn.datasets.files import atomic_write

CLASSES = {"Car": "0.7", "Pedestrian": "0.5", "Cyclist": "0.5"}  # with the overlap that counts as found
HEADING = ("model", "seed", "parameters", "steps", "passes over the data", "CPU s", "wall s", *CLASSES, "mAP", "against Mamba's spread")
ABLATIONS = ("small-groups", "no-descriptor", "no-generation")


def read_results(out: Path, order: list[str]) -> list[dict[str, Any]]:
    """Result files, by model in the given order, then by seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*-seed*.json")]
    return sorted(found, key=lambda result: (order.index(result["model"]), result["seed"]))


def average_precision(result: dict[str, Any]) -> dict[str, float]:
    """3D AP (40 recall positions, moderate) by class, and their mean, in percent."""
    scores = {name: result["scores"][f"kitti/{name}_3D_moderate_R40"] for name in CLASSES}
    return scores | {"mAP": sum(scores.values()) / len(scores)}


def spread(results: list[dict[str, Any]]) -> tuple[float, float, float] | None:
    """Mean, lowest and highest mAP of Mamba's seeds; None with fewer than two."""
    values = [average_precision(result)["mAP"] for result in results if result["model"] == "mamba"]
    return (sum(values) / len(values), min(values), max(values)) if len(values) > 1 else None


def verdict(value: float, mamba: tuple[float, float, float] | None) -> str:
    """A mAP beside Mamba's mean, and whether it lies between its seeds' lowest and highest."""
    if mamba is None:
        return ""
    mean, low, high = mamba
    place = "below" if value < low else "above" if value > high else "inside"
    return f"{value - mean:+.1f}, {place}"


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a result, as text."""
    mamba = spread(results)
    table = []
    for result in results:
        scores = average_precision(result)
        cost = [f"{result['passes']:.1f}", f"{result['cpu_seconds']:.0f}", f"{result['wall_seconds']:.0f}"]
        compared = "" if result["model"] == "mamba" else verdict(scores["mAP"], mamba)
        shown = [f"{value:.1f}" for value in scores.values()]
        table.append([result["model"], str(result["seed"]), f"{result['parameters']:,}", str(result["steps"]), *cost, *shown, compared])
    return table


def markdown(results: list[dict[str, Any]]) -> str:
    """The table with its caption."""
    limits = ", ".join(f"{name} {overlap}" for name, overlap in CLASSES.items())
    lines = [
        f"SYNTHETIC scenes, nearest 25.6 m: 3D AP in percent (R40, moderate; overlap {limits}) at equal processor time of one thread.",
        "",
    ]
    lines += [f"| {' | '.join(HEADING)} |", "|" + "---|" * len(HEADING)]
    lines += [f"| {' | '.join(row)} |" for row in rows(results)]
    mamba = spread(results)
    if mamba is not None:
        count = sum(result["model"] == "mamba" for result in results)
        lines += ["", f"Mamba, {count} seeds: mAP {mamba[0]:.1f} on average, {mamba[1]:.1f} to {mamba[2]:.1f}."]
    return "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Bars of mAP with a mark for each class; the band is the spread of Mamba's seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    mamba = spread(results)
    if mamba is not None:
        axes.axhspan(mamba[1], mamba[2], color="0.85", label="Mamba, lowest to highest seed")
    colors = ["C3" if r["model"] in ABLATIONS else "C7" if r["model"] in ("second", "pointpillars") else "C0" for r in results]
    scores = [average_precision(result) for result in results]
    axes.bar(range(len(results)), [score["mAP"] for score in scores], color=colors, label="mean of the classes")
    for name, mark in zip(CLASSES, "os^", strict=True):
        axes.plot(range(len(results)), [score[name] for score in scores], mark, color="black", mfc="none", label=name)
    names = [f"{result['model']}\nseed {result['seed']}\n{result['steps']} steps".replace("-", "-\n") for result in results]
    axes.set_xticks(range(len(results)), names, fontsize=8)
    axes.set_ylabel("3D AP, R40, moderate, %")
    axes.set_title("SYNTHETIC scenes: equal processor time on one thread")
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.4)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write_report(out: Path, order: list[str]) -> str:
    """Writes OUT/study.md, study.csv and study.png, models in the given order, and returns the table."""
    results = read_results(out, order)
    if not results:
        return f"{out}: no results yet"
    text = markdown(results)
    with atomic_write(out / "study.md", "w") as file:
        file.write(text)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([HEADING, *rows(results)])
    with atomic_write(out / "study.csv", "w") as file:
        file.write(buffer.getvalue())
    plot(results, out / "study.png")
    return text
