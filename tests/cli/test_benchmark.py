"""tools/benchmark.py: what it prints, and that it refuses what it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_one_form_with_a_plain_pytorch_peer():
    sizes = ["--batch", "1", "--length", "64", "--heads", "1", "--key", "8", "--value", "8", "--repeats", "2"]
    done = run("kernels", "--op", "gla", "--backend", "chunkwise", "reference", "--peers", *sizes)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("gla ") and "not run" not in line]
    assert [row[24:56].strip() for row in rows][:3] == ["chunkwise", "reference", "torch chunk 32"]
    assert all(float(row[56:64]) < 1e-4 for row in rows)
    assert "limits of this machine" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kernels", "--op", "galaxy"), "unknown --op ['galaxy']; choose from"),
        (("--backend", "fast"), "unknown --backend ['fast']"),
        (("--peers", "lion"), "lion has options of its own and comes first"),
        (("lion", "--operator", "galaxy"), "invalid choice: 'galaxy'"),
        (("gpu", "--op", "galaxy"), "invalid choice: 'galaxy'"),
        (("models", "--group", "galaxy"), "invalid choice: 'galaxy'"),
        (("models", "--models", "galaxy"), "unknown model 'galaxy'"),
    ],
)
def test_unknown_names_are_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import benchmark

    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_lion_against_its_port():
    done = run("lion", "--operator", "ttt", "--voxels", "400", "--repeats", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    totals = [line.split() for line in done.stdout.splitlines() if " MiB" in line]
    assert [row[1] for row in totals] == ["exact", "duplicate", "port"]
    assert all(float(row[2]) > 0 for row in totals)
    assert "duplicate and port alike" in done.stdout


def test_crossover_of_ratios(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    from benchmark_models import crossover

    assert crossover([100, 400], [0.5, 2.0]).startswith("ahead from about 200² up")
    assert crossover([100, 200, 800], [0.5, 2.0, 0.5]).startswith("behind from about 400² up")
    assert crossover([100, 400], [1.5, 2.0]) == "ahead at all sizes measured"
    assert crossover([100, 400], [0.5, 0.9]) == "behind at all sizes measured"


def test_ways_of_multiplying_end_with_their_block(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import torch
    from benchmark_models import multiplying

    from visionrnn.layers import linear

    def state():
        return linear.enabled, torch.nn.Linear.forward, torch.get_float32_matmul_precision()

    before = state()
    for way in ("torch", "onednn", "medium"):
        with multiplying(way):
            assert linear.enabled == (way == "onednn")
            assert (torch.nn.Linear.forward is linear.Linear.forward) == (way == "onednn")
        assert state() == before


@pytest.mark.slow
def test_models_beside_each_other():
    names = ["lstm_sequencer2d_s", "sequencer2d_s"]
    done = run("models", "--models", *names, "--size", "56", "112", "--batch", "1", "--repeats", "1", "--threads", "1", "--pass", "forward")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if " forward " in line and "against" not in line]
    assert [row[3] for row in rows] == names * 2
    assert [row[0] for row in rows] == ["56²", "56²", "112²", "112²"]
    assert all(float(row[-1]) < 1e-5 for row in rows[1::2])  # same weights, same scores
    assert "lstm_sequencer2d_s against sequencer2d_s, forward, batch 1, memory: 56²" in done.stdout
