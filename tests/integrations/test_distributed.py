"""Two gloo processes take the step that one process with the whole batch takes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("distributed_step.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step(out: Path, processes: int, *arguments: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Mean losses over the ranks and averaged gradients of one step over the same four scenes."""
    out.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable]
    options = [str(SCRIPT), str(out), "--batch", str(4 // processes), *arguments]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_addr", "127.0.0.1"]
        command += ["--master_port", str(free_port())]
        options += ["--launcher", "pytorch"]
    done = subprocess.run(command + options, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((out / f"loss_{rank}.json").read_text()) for rank in range(processes)]
    assert [rank.pop("samples") for rank in ranks] == [4 // processes] * processes
    losses = {name: sum(rank[name] for rank in ranks) / processes for name in ranks[0] if "loss" in name}
    return losses, torch.load(out / "gradients.pth", weights_only=True)


def worst(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of gradients, relative to the largest gradient."""
    scale = max(float(value.abs().max()) for value in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / scale


@pytest.mark.parametrize("model", ["pointpillars", "lion", pytest.param("lion-centre", marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path, model):
    """BatchNorm in eval mode, loss normalisers reduced over the ranks: losses and gradients agree within 1e-5."""
    losses, gradients = step(tmp_path / "one", 1, "--model", model)
    split_losses, split_gradients = step(tmp_path / "two", 2, "--model", model)
    assert losses["loss"] > 0 and set(losses) == set(split_losses)
    for name, value in losses.items():
        assert split_losses[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert all(torch.isfinite(value).all() for value in gradients.values())
    assert worst(gradients, split_gradients) <= 1e-5
    checkpoint = torch.load(tmp_path / "two" / "work" / "epoch_1.pth", weights_only=True)
    assert checkpoint["meta"]["world_size"] == 2 and not any(key.startswith("module.") for key in checkpoint["state_dict"])
