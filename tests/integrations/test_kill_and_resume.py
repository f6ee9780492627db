"""Real detectors from the command line: a training killed with SIGKILL and resumed has the losses of an unbroken one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mmdet3d")

from visionrnn.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ["pointpillars_1xb2_synthetic-3d-3class", "lion-mamba_1xb2_synthetic-3d-3class"]
EPOCHS, FRAMES, BATCH = 3, 8, 2


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    """A synthetic set of 8 + 2 frames."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    assert main(["create-data", "synthetic", "--out", str(root), "--train", str(FRAMES), "--val", "2", "--quiet"]) == 0
    return root


def losses(work_dir: Path) -> dict[int, dict[str, float]]:
    """Iteration → its losses as logged, in full precision; a later run of the same work dir wins."""
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found.update({row["step"]: {k: v for k, v in row.items() if "loss" in k or k == "grad_norm"} for row in rows if "loss" in row})
    return found


def start(config: str, data_root: Path, work_dir: Path, *arguments: str) -> subprocess.Popen:
    options = [f"data_root={data_root}", f"train_cfg.max_epochs={EPOCHS}", "train_cfg.val_interval=100", "train_dataloader.num_workers=2"]
    options += [f"train_dataloader.batch_size={BATCH}", "default_hooks.logger.interval=1", "log_processor.window_size=1"]
    command = [sys.executable, str(ROOT / "tools/train.py"), config, "--work-dir", str(work_dir), "--cfg-options", *options, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_killed_training_resumes_bit_for_bit(config, data_root, tmp_path):
    """Shuffling, augmentation with pasted objects, drop-path, two workers, two threads; killed amid the last epoch."""
    steps = FRAMES // BATCH
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = start(config, data_root, broken)
    while max(losses(broken), default=0) <= 2 * steps + 1:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (broken / f"epoch_{EPOCHS}.pth").exists()
    interrupted = losses(broken)
    finish(start(config, data_root, broken, "--resume"))
    finish(start(config, data_root, whole))

    assert set(losses(whole)) == set(range(1, EPOCHS * steps + 1))
    assert losses(broken) == losses(whole)
    assert interrupted == {step: losses(whole)[step] for step in interrupted}
