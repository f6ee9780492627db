"""The C++ library: found, chosen for this processor, and called with tensors. Sources beside this file; ``build.py`` compiles them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .build import BUILDS, library_path

HOW_TO_BUILD = (
    "the native CPU library is not there. Install a C++ compiler (Debian: apt install g++) and reinstall visionrnn, "
    "or run `python -m visionrnn.kernels.native`"
)
CAPABILITY = {"avx512": "AVX512", "avx2": "AVX2", "baseline": ""}  # what torch says of the processor ↔ our builds, widest first


@cache
def build_name() -> str | None:
    """The build used in this process: "avx512", "avx2", "baseline", or None when the library was not built.

    VISIONRNN_NATIVE=avx2 (for instance) asks for a build, VISIONRNN_NATIVE=off for none. Raises ValueError for other values.
    """
    wanted = os.environ.get("VISIONRNN_NATIVE")
    if wanted == "off":
        return None
    if wanted and wanted not in BUILDS:
        raise ValueError(f"VISIONRNN_NATIVE={wanted!r}; expected 'off' or one of {list(BUILDS)}")
    capability = torch.backends.cpu.get_cpu_capability()
    able = [
        name for name in BUILDS if name == "baseline" or capability.startswith(CAPABILITY[name]) or (name, capability) == ("avx2", "AVX512")
    ]
    names = [wanted] if wanted else able
    return next((name for name in names if library_path(name).is_file()), None)


def is_built() -> bool:
    """Whether the library is there for this processor."""
    return build_name() is not None


is_built._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a compiler takes the answer and does not look inside


@cache
def library() -> ctypes.CDLL:
    """The loaded library. torch, imported above, has brought the OpenMP runtime that it uses."""
    name = build_name()
    if name is None:
        raise RuntimeError(HOW_TO_BUILD)
    return ctypes.CDLL(str(library_path(name)))


def call(function: str, *arguments: Tensor | float | int | bool | None) -> None:
    """Calls a C function: a tensor becomes ``float*`` (or what its type is), None a null pointer, int and bool ``int64_t``.

    A float becomes ``double``; ``int64_t threads`` is passed last. Raises TypeError for a tensor that is not contiguous on a CPU,
    RuntimeError for a function that the library lacks.
    """
    found = getattr(library(), function, None)
    if found is None:
        raise RuntimeError(f"{library()._name} lacks {function}: it is older than its sources; run `python -m visionrnn.kernels.native`")
    found(*map(_convert, arguments), ctypes.c_int64(torch.get_num_threads()))


def watch(ctx: Any, outputs: Sequence[Tensor]) -> None:
    """For ``setup_context``: gradients are wanted of the first outputs only, not of kept states, for which no zeros are made then."""
    ctx.set_materialize_grads(False)
    ctx.watched = [(output.shape, output.dtype, output.device) for output in outputs]


def watched_gradients(ctx: Any, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients of the watched outputs; zeros where an output was not used.

    Reads no saved tensors: under activation checkpointing a backward may do so once only.
    """
    pairs = zip(ctx.watched, gradients, strict=False)
    return [torch.zeros(shape, dtype=dtype, device=device) if gradient is None else gradient for (shape, dtype, device), gradient in pairs]


def _convert(value: Tensor | float | int | bool | None) -> ctypes._SimpleCData:
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or not value.is_contiguous():
            raise TypeError(
                f"expected a contiguous tensor on a CPU, got {value.device} with strides {value.stride()} for {list(value.shape)}"
            )
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(int(value))
