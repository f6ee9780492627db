"""``make demo``: makes synthetic scenes, trains LION-Mamba on them, scores it and draws what it finds. ``--full``: more scenes, longer.

Every step is the command a user would type; it is printed before it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "lion-mamba_1xb2_synthetic-3d-3class"
CLASSES = {"Car": "0.7", "Pedestrian": "0.5", "Cyclist": "0.5"}  # with the 3D overlap that counts as found
DIFFICULTIES = ("easy", "moderate", "hard")


@dataclass(frozen=True)
class Size:
    """Frames, epochs and the minutes that the whole may take on two cores, installation included."""

    train: int
    val: int
    epochs: int
    minutes: int
    folder: str


DEMO = Size(train=60, val=20, epochs=10, minutes=15, folder="demo")
FULL = Size(train=400, val=60, epochs=8, minutes=60, folder="demo-full")


def run(tool: str, *arguments: object) -> float:
    """Runs one subcommand of visionrnn and returns its seconds; ends the demo when it fails."""
    words = [str(word) for word in arguments]
    print(f"\n$ visionrnn {tool} {shlex.join(words)}", flush=True)
    start = time.perf_counter()
    script = ROOT / "tools" / f"{tool.replace('-', '_')}.py"
    done = subprocess.run([sys.executable, str(script), *words], cwd=ROOT)
    if done.returncode:
        sys.exit(f"demo: visionrnn {tool} failed with exit code {done.returncode}; its message is above, visionrnn doctor tells more")
    return time.perf_counter() - start


def read_scores(folder: Path) -> dict[str, float]:
    """The scores of the newest JSON file below ``folder`` that has them."""
    for path in sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        for line in reversed(path.read_text(encoding="utf-8").splitlines()):
            scores = json.loads(line)
            if "kitti/Car_3D_moderate_R40" in scores:
                return scores
    sys.exit(f"demo: no scores in {folder}")


def table(scores: dict[str, float], size: Size) -> str:
    """3D average precision over 40 recall positions by class and difficulty."""
    rows = [f"LION-Mamba on SYNTHETIC scenes: 3D AP (R40) in percent, {size.val} validation frames, {size.train} training frames", ""]
    rows.append(f"{'class':<12}{'overlap':>8}" + "".join(f"{name:>10}" for name in DIFFICULTIES))
    for name, overlap in CLASSES.items():
        values = (scores.get(f"kitti/{name}_3D_{level}_R40") for level in DIFFICULTIES)
        rows.append(f"{name:<12}{overlap:>8}" + "".join("         -" if value is None else f"{value:10.2f}" for value in values))
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more scenes and more epochs, up to an hour on two cores")
    size = FULL if parser.parse_args().full else DEMO
    data, work = Path("data") / f"synthetic-{size.folder}", Path("work_dirs") / size.folder
    pictures = work / "pictures"
    seconds = {"data": run("create-data", "synthetic", "--out", data, "--train", size.train, "--val", size.val)}
    options = ("--cfg-options", f"data_root={data}")
    seconds["training"] = run("train", CONFIG, "--work-dir", work, *options, f"train_cfg.max_epochs={size.epochs}")
    checkpoint = work / Path((ROOT / work / "last_checkpoint").read_text(encoding="utf-8").strip()).name
    seconds["scoring"] = run("test", CONFIG, checkpoint, "--work-dir", work / "test", "--show-dir", pictures, *options)

    drawn = sorted((ROOT / pictures).rglob("*.png"))
    total = sum(seconds.values())
    print(f"\n{table(read_scores(ROOT / work / 'test'), size)}\n")
    print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()) + f"; {total / 60:.1f} minutes in all")
    if total > 60 * size.minutes:
        print(f"That is more than the {size.minutes} minutes meant for two cores; is something else running?")
    print(f"pictures    {pictures} ({len(drawn)} files)\ncheckpoint  {checkpoint}\n\nNext (after: source .venv/bin/activate):")
    print(f"  visionrnn detect {CONFIG} {checkpoint} {data}/training/velodyne/{size.train:06d}.bin --out-dir found")
    if size is DEMO:
        print("  make demo-full                                   the same with more scenes, up to an hour")
    print("  visionrnn create-data kitti --root data/kitti    your own data in KITTI's layout, see data/README.md")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
