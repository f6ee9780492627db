"""The native library: which build runs, what happens without it, and that every build computes the same functions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from visionrnn.kernels import native
from visionrnn.kernels.native.build import BUILDS, build, library_path

pytestmark = pytest.mark.skipif(not native.is_built(), reason=native.HOW_TO_BUILD)

EVERY_SAMPLE = """
import torch
from visionrnn.kernels import available_backends, native
from visionrnn.testing import SAMPLES, error
torch.set_num_threads(1)
for sample in SAMPLES.values():
    if "native" in available_backends(sample.family, sample.kernel, "cpu"):
        inputs = sample.inputs(batch=2, length=70, heads=2, key=9, value=13, dtype=torch.float32)
        got, want = (sample.gradients(inputs, backend=backend) for backend in ("native", "chunkwise"))
        print(sample.name, max(error(got[name], want[name]) for name in want))
print("build", native.build_name())
"""

ONE_SCAN = """
import torch, visionrnn.kernels as kernels
x = torch.ones(1, 3, 4)
for _ in range(2):
    print(kernels.diagonal_scan(x, -x).sum().item())
try:
    kernels.diagonal_scan(x, -x, backend="native")
except ValueError as error:
    print(error)
"""


def run(code: str, build: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VISIONRNN_NATIVE": build}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def runnable() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    return [name for name in BUILDS if name == "baseline" or name.upper() <= capability]


@pytest.mark.parametrize("build", runnable())
def test_every_build_computes_the_same(build):
    done = run(EVERY_SAMPLE, build)
    *lines, last = done.stdout.splitlines() or [""]
    assert last == f"build {build}", done.stderr
    assert lines
    for line in lines:
        name, deviation = line.split()
        assert float(deviation) < 1e-4, name


def test_without_the_library_a_warning_says_how_to_get_it():
    done = run(ONE_SCAN, "off")
    assert done.stderr.count("RuntimeWarning: the slower back end 'chunkwise' is used: the native CPU library is not there.") == 1
    assert "python -m visionrnn.kernels.native" in done.stderr
    first, second, refusal = done.stdout.splitlines()
    assert first == second
    assert refusal.startswith("backend='native': the native CPU library is not there.")


def test_unknown_build_is_refused():
    assert "VISIONRNN_NATIVE='sse9'; expected 'off' or one of" in run("import visionrnn.kernels as k; k.native.is_built()", "sse9").stderr


def test_compiler_errors_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"false -O3"):
        build(tmp_path)
    assert not any(library_path(name, tmp_path).exists() for name in BUILDS)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler found: install g\\+\\+"):
        build(tmp_path)


def test_tensors_must_be_contiguous():
    with pytest.raises(TypeError, match="expected a contiguous tensor on a CPU"):
        native.call("selective_scan_parts", torch.zeros(3, 4).T)


def test_a_library_older_than_its_sources_is_named():
    with pytest.raises(RuntimeError, match=r"lacks newest_scan: it is older than its sources; run `python -m visionrnn.kernels.native`"):
        native.call("newest_scan", 1)
