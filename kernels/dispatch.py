"""Back-end name + device → implementation. A back end is a module ``<family>/<backend>.py`` that has the function."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

# First that is there wins when backend="auto"; "reference" is only used when asked for.
PREFERENCE = {"cpu": ("chunkwise",), "cuda": ("chunkwise",)}
MODULES = ("reference", "chunkwise")
FAMILIES = ("diagonal",)


@cache
def available_backends(family: str) -> tuple[str, ...]:
    """Names accepted as ``backend=`` by the functions of a family, e.g. ``("reference", "chunkwise")``."""
    return tuple(name for name in MODULES if find_spec(f"{__package__}.{family}.{name}") is not None)


def implementation(family: str, function: str, backend: str, device_type: str) -> Callable:
    """The function of a back end. Raises ValueError, naming the choices, when the back end is not there."""
    names = available_backends(family)
    if backend == "auto":
        backend = next(name for name in PREFERENCE.get(device_type, ("chunkwise",)) if name in names)
    if backend not in names:
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {sorted(names)} for {family}.{function}")
    return getattr(import_module(f"{__package__}.{family}.{backend}"), function)
