"""Kernels compiled ahead of time: a few here, all of them by make aot; and what the committed table says of all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from visionrnn.analysis import aot
from visionrnn.analysis.compiled import TARGETS
from visionrnn.analysis.instructions import amd, occupancy
from visionrnn.kernels.launch import Config
from visionrnn.testing.shipped import entries

ROOT = Path(__file__).resolve().parents[2]
TABLE = aot.read(ROOT / "tests" / "kernels" / "aot.json")["kernels"]
QUICK = ("diagonal/diagonal_scan", "gated_linear/simple_gla", "delta_rule/delta_rule", "nonlinear/lstm")
ENTRY = {"registers": 100, "spills": 0, "stack": 0, "shared": 2048, "instructions": 500, "tensor": 8, "products": 2, "atomics": 0}


def tool(*options: str) -> str:
    """In a process of its own: what Triton's interpreter runs, which the tests' process asks for, cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "tools/aot.py", *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_some_compile_as_the_table_says():
    out = tool("--only", *QUICK, "--targets", "sm_90", "--dtypes", "bf16")
    assert int(out.rpartition(" compilations of ")[0].rpartition("\n")[2]) >= len(QUICK)


def test_other_lengths_and_batches_are_the_same_kernel():
    """20 lengths and batches, every kernel, every candidate: one key each in Triton's own cache."""
    kernels = int(tool("--keys", "--targets", "sm_90").splitlines()[0].split()[1])
    assert kernels == len(TABLE)


def test_table_has_every_kernel_for_every_target():
    launched = {stated.kernel for entry in entries() for dtype in (torch.bfloat16, torch.float32) for stated in entry.launches(dtype)}
    assert set(TABLE) == launched
    for kernel, rows in TABLE.items():
        assert {key.split()[0] for key in rows} == set(TARGETS), kernel


def test_table_keeps_the_promises():
    assert not aot.broken_promises(TABLE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spills": 2}, "2 spills"),
        ({"stack": 8}, "8 bytes of stack"),
        ({"tensor": 0}, "without tensor cores"),
        ({"shared": 100 << 10}, "no candidate below"),
        ({"atomics": 1}, "atomic"),
        ({"error": "CompilationError: no"}, "CompilationError"),
    ],
)
def test_a_broken_promise_is_told(change, told):
    key = "sm_90 bf16 BLOCK=64 w4 s2"
    assert not aot.broken_promises({"kernel": {key: ENTRY}})
    (line,) = aot.broken_promises({"kernel": {key: ENTRY | change}})
    assert told in line


def test_what_is_worse_than_the_table_is_told():
    key = "sm_80 bf16 BLOCK=64 w4 s2"
    known = {"kernel": {key: ENTRY}}
    assert not aot.worse({"kernel": {key: ENTRY | {"registers": 118, "shared": 3072, "instructions": 400}}}, known)
    for change in ({"registers": 119}, {"shared": 3073}, {"instructions": 583}, {"tensor": 0}, {"spills": 9}):
        assert len(aot.worse({"kernel": {key: ENTRY | change}}, known)) == 1, change
    assert aot.worse({"kernel": {"sm_90 bf16 BLOCK=64 w4 s2": ENTRY}}, known) == ["kernel: 1 compilations are not in the table"]


def test_occupancy():
    assert occupancy(90, 128, 0, 4) == (4, 0.25)  # 65536 registers / (128 · 32 · 4)
    assert occupancy(90, 32, 100 << 10, 4) == (2, 0.125)  # 228 KB of shared memory
    assert occupancy(80, 32, 164 << 10, 4) == (0, 0.0)  # more than a program may have
    assert occupancy("gfx942", 128, 32 << 10, 4) == (2, 0.25)


def test_registers_of_amd_assembly():
    assembly = (
        "\tv_mfma_f32_16x16x16_bf16 a[0:3]\n\t.amdhsa_x\n\tglobal_load_dwordx4 v[0:3]\n    .vgpr_count:     72\n    .vgpr_spill_count: 3\n"
    )
    found = amd(assembly)
    assert (found["registers"], found["spills"], found["stack"], found["tensor"], found["loads"]) == (72, 3, 0, 1, 1)


def test_products_on_amd_are_not_tf32():
    config = Config({"BLOCK": 16, "PRECISION": "tf32x3"})
    assert config.on("hip") == {"BLOCK": 16, "PRECISION": "ieee"}
    assert config.on("cuda")["PRECISION"] == "tf32x3"
