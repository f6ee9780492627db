"""Table and curves of the results that ``tools/digits.py`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visionrnn.datasets.files import atomic_write

HEADING = ("model", "seed", "parameters", "CPU s", "test accuracy, %", "wrong of {images}")
WARPED = "SVM, warped images too"
CAPTION = (
    "scikit-learn's handwritten digits, first half for training, second half for the test; last epoch, one thread. The SVM and k-NN are"
    " scikit-learn's, tuned by cross-validation on the training half."
)


def read_results(out: Path, order: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """scikit-learn's results, and ours by model in the given order, then by seed."""
    path = out / "scikit-learn.json"
    theirs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    ours = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*-seed*.json")]
    return theirs, sorted(ours, key=lambda result: (order.index(result["model"]), result["seed"]))


def wrong(result: dict[str, Any]) -> int:
    """Images whose class was not found."""
    return round(result["images"] * (1 - result["accuracy"] / 100))


def markdown(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """The table, with its caption, what was chosen for the baselines, and whether every model is better."""
    images = (theirs + ours)[0]["images"]
    lines = [CAPTION, "", f"| {' | '.join(HEADING).format(images=images)} |", "|" + "---|" * len(HEADING)]
    for result in theirs + ours:
        cells = [result["model"], str(result.get("seed", "")), f"{result['parameters']:,}" if "parameters" in result else ""]
        cells += [f"{result['cpu_seconds']:.0f}", f"{result['accuracy']:.2f}", str(wrong(result))]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for result in theirs:
        lines.append(f"{result['model']}: {', '.join(f'{name} = {value}' for name, value in result['options'].items())}.")
    if ours:
        by_seed = {seed: sum(r["cpu_seconds"] for r in ours if r["seed"] == seed) for seed in sorted({r["seed"] for r in ours})}
        cost = ", ".join(f"seed {seed}: {seconds / 60:.1f}" for seed, seconds in by_seed.items())
        lines.append(f"CPU minutes of all trainings together, {cost}.")
    plain = [result for result in theirs if result["model"] != WARPED]
    if ours and plain:
        best, worst = max(plain, key=lambda result: result["accuracy"]), min(ours, key=lambda result: result["accuracy"])
        better = "Every" if worst["accuracy"] > best["accuracy"] else "Not every"
        lines.append(
            f"{better} model is better than {best['model']}: the worst, {worst['model']}, has {wrong(worst)} wrong, not {wrong(best)}."
        )
    lines += [
        f"Trained on the models' warped images too, the SVM has {wrong(result)} wrong." for result in theirs if result["model"] == WARPED
    ]
    return "\n".join(lines) + "\n"


def plot(theirs: list[dict[str, Any]], ours: list[dict[str, Any]], path: Path) -> None:
    """Training loss and error on the test half over the epochs, of each model's first seed; the error's axis is logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    shown: dict[str, dict[str, Any]] = {}
    for result in ours:
        shown.setdefault(result["model"], result)
    for number, (name, result) in enumerate(shown.items()):
        left.plot(*zip(*result["curves"]["loss"], strict=True), color=f"C{number}", label=name)
        epochs, accuracies = zip(*result["curves"]["accuracy"], strict=True)
        right.plot(epochs, [100 - value for value in accuracies], color=f"C{number}", label=f"{name}, {accuracies[-1]:.2f} %")
    for result, style in zip(theirs, ("--", ":", "-."), strict=False):
        right.axhline(100 - result["accuracy"], color="black", linestyle=style, label=f"{result['model']}, {result['accuracy']:.2f} %")
    left.set(xlabel="epoch", ylabel="training loss, warped images, smoothed labels", title="scikit-learn's digits: training loss")
    right.set(xlabel="epoch", ylabel="wrong on the test half, %", title="… and error on the test half", yscale="log", ylim=(0.5, 100))
    right.set_yticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(fontsize=9, title="accuracy at the end", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_report(out: Path, order: list[str]) -> str:
    """Writes OUT/digits.md and OUT/digits.png and returns the table."""
    theirs, ours = read_results(out, order)
    if not theirs and not ours:
        return f"{out}: no results yet"
    text = markdown(theirs, ours)
    with atomic_write(out / "digits.md", "w") as file:
        file.write(text)
    plot(theirs, ours, out / "digits.png")
    return text
