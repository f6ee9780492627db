"""Back-end name + device → implementation. A back end is a module of the family's folder that has the function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from . import native
from .launch import is_interpreted, is_recording

# First that has the function wins when backend="auto"; "reference" is only used when asked for.
PREFERENCE = {"cpu": ("native", "chunkwise"), "cuda": ("triton", "chunkwise")}
# Back end → its module. That of "triton" does not import Triton, which its kernels' module does when it is needed.
MODULES = {"reference": "reference", "chunkwise": "chunkwise", "native": "native", "triton": "triton_op"}
_MODULES: dict[tuple[str, str], ModuleType] = {}  # (family, back end), filled by _load
HOW_TO_RUN_TRITON = (
    "it needs the package triton and a CUDA or ROCm device; without one, set TRITON_INTERPRET=1 before Triton is imported to run its "
    "interpreter on CPU tensors, slowly, for tests"
)
FAMILIES = ("diagonal", "gated_linear", "delta_rule", "nonlinear", "causal_conv")


@cache
def available_backends(family: str, function: str | None = None, device: str | None = None) -> tuple[str, ...]:
    """Names accepted as ``backend=`` by the functions of a family, or by one of them, e.g. ``("reference", "chunkwise")``.

    ``device``: only those for tensors on that kind of device. Triton's interpreter, which is for tests, does not count.
    """
    triton = _triton_is_there() and torch.cuda.is_available()
    there = {"native": native.is_built() and device != "cuda", "triton": triton and device != "cpu"}
    return tuple(name for name in MODULES if has(family, name, function) and there.get(name, True))


def choose(family: str, function: str, backend: str, dtype: torch.dtype, device: str) -> str:
    """Name of the back end that ``backend`` stands for where ``dtype`` is computed in on a kind of device.

    Raises ValueError, naming the choices, when the back end is not there or cannot take the type or device.
    """
    names, single = available_backends(family, function), dtype == torch.float32
    fused = has(family, "triton", function)
    if fused and "triton" not in names and (is_recording() or (is_interpreted() and _triton_is_there())):
        names = (*names, "triton")
    simulated = device == "cpu" and (is_recording() or is_interpreted())
    fits = {"native": single and device == "cpu", "triton": single and (device == "cuda" or simulated)}
    missing = has(family, "native", function) and not native.is_built()
    if backend == "auto":
        if fits["native"] and missing:
            _warn_not_built()
        backend = next(name for name in PREFERENCE.get(device, ("chunkwise",)) if name in names and fits.get(name, True))
    if backend == "native" and missing:
        raise ValueError(f"backend='native': {native.HOW_TO_BUILD}")
    if backend == "triton" and backend not in names and fused:
        raise ValueError(f"backend='triton': {HOW_TO_RUN_TRITON}")
    if backend not in names:
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {sorted(names)} for {family}.{function}")
    if not fits.get(backend, True):
        where = "cuda" if backend == "triton" else "cpu"
        raise ValueError(
            f"backend={backend!r} computes in torch.float32 on {where}, got {dtype} on {device}; use 'auto', 'chunkwise' or 'reference'"
        )
    return backend


# What torch.compiler.assume_constant_result sets; the decorator itself would import the compiler, and Triton, with this package.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def on_triton(backend: str, dtype: torch.dtype, device: str, *functions: tuple[str, str]) -> bool:
    """Whether all these (family, function) run on Triton where ``backend`` is asked for, for inputs of a type on a kind of device."""
    if device == "cpu" and backend != "triton":
        return False
    computed = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    return all(has(family, "triton", name) and choose(family, name, backend, computed, device) == "triton" for family, name in functions)


def implementation(family: str, function: str, backend: str) -> Callable:
    """The function of a back end whose name came from :func:`choose`."""
    return getattr(_MODULES[family, backend], function)


@cache
def _load() -> None:
    """Imports all back ends at once: a graph that is being traced sees the table as it was when the trace first read it."""
    for family in FAMILIES:
        for backend, module in MODULES.items():
            name = f"{__package__}.{family}.{module}"
            if find_spec(name) is not None:
                _MODULES[family, backend] = import_module(name)


def has(family: str, backend: str, function: str | None) -> bool:
    """Whether a back end has a function at all, on whatever device."""
    _load()
    module = _MODULES.get((family, backend))
    return module is not None and (function is None or hasattr(module, function))


@cache
def _triton_is_there() -> bool:
    return find_spec("triton") is not None


@cache
def _warn_not_built() -> None:
    warnings.warn(f"the slower back end 'chunkwise' is used: {native.HOW_TO_BUILD}", RuntimeWarning, stacklevel=4)
