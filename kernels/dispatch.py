"""Back-end name + device → implementation. A back end is a module ``<family>/<backend>.py`` that has the function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from . import native

# First that has the function wins when backend="auto"; "reference" is only used when asked for.
PREFERENCE = {"cpu": ("native", "chunkwise"), "cuda": ("chunkwise",)}
MODULES = ("reference", "chunkwise", "native")
_MODULES: dict[tuple[str, str], ModuleType] = {}  # (family, back end), filled by _load
FAMILIES = ("diagonal", "gated_linear", "delta_rule", "nonlinear", "causal_conv")


@cache
def available_backends(family: str, function: str | None = None) -> tuple[str, ...]:
    """Names accepted as ``backend=`` by the functions of a family, or by one of them, e.g. ``("reference", "chunkwise")``."""
    return tuple(name for name in MODULES if _has(family, name, function) and (name != "native" or native.is_built()))


def choose(family: str, function: str, backend: str, dtype: torch.dtype, device: str) -> str:
    """Name of the back end that ``backend`` stands for where ``dtype`` is computed in on a kind of device.

    Raises ValueError, naming the choices, when the back end is not there or cannot take the type or device.
    """
    names, native_fits = available_backends(family, function), device == "cpu" and dtype == torch.float32
    missing = _has(family, "native", function) and not native.is_built()
    if backend == "auto":
        if native_fits and missing:
            _warn_not_built()
        backend = next(name for name in PREFERENCE.get(device, ("chunkwise",)) if name in names and (name != "native" or native_fits))
    if backend == "native" and missing:
        raise ValueError(f"backend='native': {native.HOW_TO_BUILD}")
    if backend not in names:
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {sorted(names)} for {family}.{function}")
    if backend == "native" and not native_fits:
        raise ValueError(
            f"backend='native' computes in torch.float32 on cpu, got {dtype} on {device}; use 'auto', 'chunkwise' or 'reference'"
        )
    return backend


# What torch.compiler.assume_constant_result sets; the decorator itself would import the compiler, and Triton, with this package.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def implementation(family: str, function: str, backend: str) -> Callable:
    """The function of a back end whose name came from :func:`choose`."""
    return getattr(_MODULES[family, backend], function)


@cache
def _load() -> None:
    """Imports all back ends at once: a graph that is being traced sees the table as it was when the trace first read it."""
    for family in FAMILIES:
        for backend in MODULES:
            name = f"{__package__}.{family}.{backend}"
            if find_spec(name) is not None:
                _MODULES[family, backend] = import_module(name)


def _has(family: str, backend: str, function: str | None) -> bool:
    _load()
    module = _MODULES.get((family, backend))
    return module is not None and (function is None or hasattr(module, function))


@cache
def _warn_not_built() -> None:
    warnings.warn(f"the slower back end 'chunkwise' is used: {native.HOW_TO_BUILD}", RuntimeWarning, stacklevel=4)
