"""The way to Triton's kernels: what is checked before a launch, which candidate runs, what is recorded instead of run."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
import torch

from visionrnn.kernels import diagonal_scan, launch
from visionrnn.kernels.launch import Config

KERNEL = "diagonal.triton_kernels.diagonal_scan_forward"


class Function:
    """In the place of a jit function: keeps how it was launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda **given: self.launches.append((grid, given))


@pytest.fixture
def function():
    found = Function()
    with mock.patch.object(launch, "jit_function", lambda kernel: found):
        yield found


@pytest.fixture
def fresh_choices(monkeypatch):
    monkeypatch.setattr(launch, "_fastest", {})


def candidates(*lengths: int) -> list[Config]:
    return [Config({"BLOCK_T": length}, warps=2, stages=3) for length in lengths]


def run(*lengths: int, x: torch.Tensor | None = None, **stated: float) -> None:
    x = torch.zeros(6, 4) if x is None else x
    launch.launch(KERNEL, lambda c: (3, 128 // c["BLOCK_T"]), {"x": x, "T": 6, "index": None}, candidates(*lengths), **stated)


def test_the_first_candidate_runs(function):
    run(32, 64)
    ((grid, given),) = function.launches
    assert grid == (3, 4) and given["BLOCK_T"] == 32 and given["T"] == 6 and given["index"] is None


@pytest.mark.parametrize("interpreted", [True, False])
def test_warps_and_stages_are_the_compiler_s(function, monkeypatch, interpreted):
    """The interpreter knows neither."""
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    run(32)
    ((_, given),) = function.launches
    assert ({"num_warps", "num_stages"} <= set(given)) is not interpreted
    assert interpreted or (given["num_warps"], given["num_stages"]) == (2, 3)


def test_an_empty_grid_runs_nothing(function):
    launch.launch(KERNEL, lambda c: (0, 4), {"x": torch.zeros(0, 4)}, candidates(32))
    assert not function.launches


@pytest.mark.parametrize("number", [0, 5])
def test_number_of_candidates(function, number):
    with pytest.raises(ValueError, match=f"{KERNEL}: expected 1 to 4 candidates, got {number}"):
        run(*[32] * number)
    assert not function.launches


def test_scattered_tensors_are_refused(function):
    with pytest.raises(ValueError, match=r"expected contiguous tensors on one device, got \['x'\]"):
        run(32, x=torch.zeros(4, 6).T)
    assert not function.launches


def test_tensors_on_several_devices_are_refused(function):
    arguments = {"x": torch.zeros(3), "y": torch.zeros(3, device="meta")}
    with pytest.raises(ValueError, match=r"on one device, got \['cpu', 'meta'\]"):
        launch.launch(KERNEL, lambda c: (1,), arguments, candidates(32))
    with pytest.raises(ValueError, match="on one device"):
        launch.launch(KERNEL, lambda c: (1,), {"T": 3}, candidates(32))
    assert not function.launches


def test_recording_collects_and_does_not_run(function):
    with launch.recording() as outer:
        run(32, flops=7.0)
        with launch.recording() as inner:
            run(64, traffic=11.0)
        assert launch.is_recording()
        run(16)
    assert not launch.is_recording() and not function.launches
    assert [stated.candidates[0].constants["BLOCK_T"] for stated in outer] == [32, 16]
    assert [(stated.flops, stated.traffic) for stated in (*outer, *inner)] == [(7.0, 96.0), (0.0, 96.0), (0.0, 11.0)]


def test_recording_ends_with_an_error():
    with pytest.raises(RuntimeError), launch.recording():
        raise RuntimeError
    assert not launch.is_recording()


@pytest.mark.parametrize("fastest", [0, 1, 2])
def test_autotuning_keeps_the_fastest(function, fresh_choices, monkeypatch, fastest):
    """Measured once for a kernel and its types; another type is another kernel. Outside, nothing is measured but the choice stays."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    lengths, measured = (16, 32, 64), []

    def do_bench(call, return_mode):
        call()
        measured.append(function.launches.pop()[1]["BLOCK_T"])
        return 1.0 if measured[-1] == lengths[fastest] else 2.0

    with mock.patch("triton.testing.do_bench", do_bench):
        with launch.autotuning():
            run(*lengths)
            run(*lengths)
            assert measured == [*lengths]
            run(*lengths, x=torch.zeros(6, 4, dtype=torch.half))
            assert measured == [*lengths] * 2
        run(*lengths, x=torch.zeros(6, 4, dtype=torch.bfloat16))
        run(*lengths)
    assert [given["BLOCK_T"] for _, given in function.launches] == [lengths[i] for i in (fastest, fastest, fastest, 0, fastest)]


def test_measuring_leaves_the_tensors_alone(function, fresh_choices, monkeypatch):
    """A kernel that works in place may do so once."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    x = torch.zeros(6, 4)
    with mock.patch("triton.testing.do_bench", lambda call, return_mode: call() or 1.0), launch.autotuning():
        run(16, 32, x=x)
    assert [given["x"] is x for _, given in function.launches] == [False, False, True]


def test_nothing_is_measured_without_being_asked(function, fresh_choices, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with mock.patch("triton.testing.do_bench", side_effect=AssertionError):
        run(16, 32)
        with launch.autotuning():
            run(16)  # there is nothing to choose


def test_precision_of_products():
    assert launch.product_precision() == "tf32x3"
    try:
        launch.set_product_precision("ieee")
        assert launch.product_precision() == "ieee"
    finally:
        launch.set_product_precision("tf32x3")
    with pytest.raises(ValueError, match=r"precision='exact'; expected one of \['tf32x3', 'ieee', 'tf32'\]"):
        launch.set_product_precision("exact")


def test_recording_takes_cpu_tensors_of_any_size_without_triton():
    """In a process of its own, where Triton cannot be imported and its interpreter is off."""
    program = """
import sys
sys.modules["triton.language"] = None
import torch
from visionrnn.kernels import diagonal_scan, launch
x = torch.empty(1, 1_000_000, 64)
with launch.recording() as launches:
    diagonal_scan(x, x, backend="triton")
print(*{stated.kernel.split(".")[0] for stated in launches})
try:
    diagonal_scan(x, x, backend="triton")
except ValueError as error:
    print(error)
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    first, second = done.stdout.splitlines()
    assert first == "diagonal" and second.startswith("backend='triton': it needs the package triton and a CUDA or ROCm device")


def test_what_is_recorded_is_what_runs():
    """The launches of a call, forward and backward, are those that a recording collects."""
    pytest.importorskip("triton")
    x = torch.rand(2, 9, 5, requires_grad=True)
    calls: list[str] = []
    original = launch._run
    with mock.patch.object(launch, "_run", lambda stated, config: (calls.append(stated.kernel), original(stated, config))):
        diagonal_scan(x, -x, backend="triton").sum().backward()
    with launch.recording() as launches:
        diagonal_scan(x, -x, backend="triton").sum().backward()
    assert [stated.kernel for stated in launches] == calls and len(calls) == 2
