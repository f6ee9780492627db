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
