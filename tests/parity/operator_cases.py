"""Runs the stored operator cases: everything about a case comes from the file's ``meta``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import Golden
from torch import Tensor

from visionrnn.kernels import available_backends, dispatch
from visionrnn.testing import error

# max |value - stored| / max |stored|; the stored numbers are rounded to float32
TOLERANCE = {torch.float64: 2e-6, torch.float32: 1e-4}

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of Triton's cases; without a GPU its interpreter runs them

Adapter = Callable[..., dict[str, Tensor]]


def backends(family: str, function: str) -> tuple[str, ...]:
    """Those on a CPU that have the function, and Triton where it has: it runs on a GPU, or when asked for by ``--backend triton``."""
    names = available_backends(family, function, "cpu")
    return (*names, "triton") if dispatch.has(family, "triton", function) else names


def operator_cases(adapters: dict[str, tuple[Adapter, tuple[str, ...]]]) -> Callable[[Callable], Callable]:
    """Parametrises a test over files × back ends × types: ``adapters`` maps a file's name to (adapter, back ends that claim it)."""
    found = [
        pytest.param(name, backend, dtype, id=f"{name}-{backend}-{str(dtype).removeprefix('torch.')}")
        for name, (_, claimed) in adapters.items()
        for backend in claimed
        for dtype in ([torch.float32] if backend in ("native", "triton") else [torch.float64, torch.float32])
    ]
    return pytest.mark.parametrize(("name", "backend", "dtype"), found)


def check_file(folder: Path, name: str, adapter: Adapter, backend: str, dtype: torch.dtype, **tolerances: float) -> None:
    """All cases of the file ``name``. ``tolerances``: for outputs or gradients (``d_`` before the name) that need another one."""
    path = folder / "operators" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no stored cases for this test in {path.parent}")
    golden = Golden(path)
    for case in golden.config["cases"]:
        check_case(golden, case, adapter, backend, dtype, **tolerances)


def check_case(golden: Golden, case: dict, adapter: Adapter, backend: str, dtype: torch.dtype, **tolerances: float) -> None:
    """Outputs, final states and gradients of one case.

    ``adapter(inputs, static, backend=..., cu_seqlens=...)`` returns the outputs by their stored names. The compared gradient is that of
    the sum over ``grad_outputs`` of <output, stored output gradient>.
    """
    prefix = f"{case['case']}/"
    device = DEVICE if backend == "triton" else "cpu"
    given = {name: value.to(device) for name, value in golden.group(prefix + "in/", dtype).items()}
    inputs = {name: value.requires_grad_(value.is_floating_point()) for name, value in given.items()}
    options: dict[str, Any] = {"backend": backend}
    if case.get("varlen"):
        options["cu_seqlens"] = golden[prefix + "cu_seqlens"].to(device)
    found = adapter(inputs, case["static"], **options)
    where = f"{golden.config['op']} case {case['case']}, "
    for name in case["outputs"]:
        compare(found[name], golden[prefix + f"out/{name}"], tolerances.get(name, TOLERANCE[dtype]), where + name)
    loss = sum((found[name] * golden[prefix + f"grad_out/{name}"].to(device, dtype)).sum() for name in case["grad_outputs"])
    tensors = {name: value for name, value in inputs.items() if f"{prefix}grad/{name}" in golden}
    assert tensors, where + "no stored gradients"
    gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
    for name, gradient in zip(tensors, gradients, strict=True):
        stored = golden[prefix + f"grad/{name}"]
        compare(gradient, stored, tolerances.get(f"d_{name}", TOLERANCE[dtype]), where + f"gradient of {name}")


def compare(value: Tensor, stored: Tensor, tolerance: float, what: str) -> None:
    value = value.cpu()
    deviation = error(value, stored.reshape(value.shape) if value.numel() == stored.numel() else stored)
    assert deviation <= tolerance, f"{what}: deviation {deviation:.1e}, allowed {tolerance:.0e}"
