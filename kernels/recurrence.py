"""The way from a public function to a back end, the same for every recurrence: checks, types, layout, and back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, overload

import torch
from torch import Tensor

from .dispatch import choose, implementation
from .ordered import Both
from .packing import Rows
from .packing import boundaries as checked_boundaries
from .spans import BOTH, FORWARD, REVERSE

MAX_WIDTH, MAX_STEPS = 256, 32  # of the states of Triton kernels, and per token
HALF = (torch.float16, torch.bfloat16)
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}  # dtype.to_complex() cannot be traced


class Recurrence:
    """Collects the arguments of one call, checking each, and runs it on a back end.

    ``like`` is the argument [B, T, ...] that gives batch, length, device and the type of the output. Everything is computed in float64
    when it is float64, otherwise in float32: half types are cast before, the output is cast back, states stay float32.

    A back end gets rows that run forward in time; steps beyond the end of a shorter sequence are ``blank`` and must leave the state
    as it is. The native back end instead gets the arguments as they are, contiguous, with ``cu_seqlens`` and ``reverse``; that of Triton
    gets ``cu_seqlens`` (None for a batch), ``index``, ``direction`` and ``own`` (see ``Spans``), and arguments with a time axis in the
    type they have.
    """

    def __init__(
        self,
        family: str,
        function: str,
        name: str,
        like: Tensor,
        *,
        cu_seqlens: Tensor | None,
        max_seqlen: int | None,
        reverse: bool,
        backend: str,
        index: Tensor | None = None,
        direction: str | Both | None = None,
        widths: tuple[int, ...] = (),
        steps: int = 1,
    ):
        if like.dim() < 3 or not (like.is_floating_point() or like.is_complex()):
            raise ValueError(f"{name}: expected floating point [B, T, ...], got {like.dtype} {list(like.shape)}")
        self.name, self.like, self.reverse, self.max_seqlen, self.cu_seqlens = name, like, reverse, max_seqlen, cu_seqlens
        self.dtype = torch.float64 if _is_double(like) else torch.float32
        self.both = direction if isinstance(direction, Both) else None
        self.index, self.own = index, self.both is not None and self.both.own
        self.backend = choose(family, function, backend, self.dtype, like.device.type)
        width = max(widths, default=0)
        if self.backend == "triton" and (width > MAX_WIDTH or steps > MAX_STEPS):
            if backend == "triton" or index is not None or self.both is not None:
                most = f"widths up to {MAX_WIDTH}, got {width}" if width > MAX_WIDTH else f"up to {MAX_STEPS} steps per token, got {steps}"
                raise ValueError(f"{name}: backend='triton' takes {most}; use backend='chunkwise'")
            self.backend = choose(family, function, "chunkwise", self.dtype, like.device.type)
        self.call = implementation(family, function, self.backend)
        if cu_seqlens is not None:
            self.cu_seqlens = checked_boundaries(cu_seqlens, like[: len(like) // 2] if self.own else like)
        self.sequences = like.shape[0] if self.cu_seqlens is None else self.cu_seqlens.numel() - 1
        if self.both is not None and not (self.own and self.cu_seqlens is None):
            self.sequences *= 2
        self._timed: dict[str, tuple[Tensor | None, float | None]] = {}
        self._other: dict[str, Tensor | None] = {}

    def timed(self, name: str, value: Tensor | None, shape: tuple[int, ...], blank: float | None = None) -> None:
        """An argument [B, T, *shape]. ``blank`` fills the steps beyond the end of a sequence; None: anything finite may stand there."""
        keep = self.backend == "triton" and value is not None and value.dtype in HALF  # its kernels read half types themselves
        self._timed[name] = self.checked(name, value, (*self.like.shape[:2], *shape), keep), blank

    def constant(self, name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
        """An argument without a time axis, the same for all sequences; [2, *shape] where each of both directions has its own."""
        self._other[name] = self.checked(name, value, (2, *shape) if self.own else shape)

    def state(self, name: str, value: Tensor | None, shape: tuple[int, ...], default: float = 0.0, complex: bool = False) -> None:
        """A state before the first step, [B, *shape] (one row per sequence with cu_seqlens); ``default`` everywhere when it is None."""
        shape = (self.sequences, *shape)
        if value is None:
            value = self.like.new_full(shape, default, dtype=COMPLEX[self.dtype] if complex else self.dtype)
        self._other[name] = self.checked(name, value, shape)

    def run(self, padded: bool = True, **options: Any) -> tuple[Tensor, ...]:
        """(output in the type of ``like``, final states ...). Not ``padded``: every back end gets what the native one gets."""
        if self.backend == "triton":
            arguments = {name: value for name, (value, _) in self._timed.items()} | self._other
            contiguous = {name: None if value is None else value.contiguous() for name, value in arguments.items()}
            return self.call(**contiguous, **self.order(), **options)
        if self.backend == "native" or not padded:
            arguments = {name: value for name, (value, _) in self._timed.items()} | self._other
            contiguous = {name: None if value is None else value.contiguous() for name, value in arguments.items()}
            out, *states = self.call(**contiguous, cu_seqlens=self.boundaries(), reverse=self.reverse, **options)
        else:
            rows = Rows(self.like, self.cu_seqlens, self.max_seqlen, self.reverse)
            timed = {name: None if value is None else rows.lay(value, blank) for name, (value, blank) in self._timed.items()}
            with without_autocast(self.like.device.type):  # its matrix products too are computed in the type promised
                out, *states = self.call(**timed, **self._other, **options)
            out = rows.back(out)
        return (out.to(self.like.dtype) if self.like.dtype in HALF else out, *states)

    def order(self) -> dict[str, Any]:
        """What Triton operators take of it, by name."""
        direction = BOTH if self.both is not None else REVERSE if self.reverse else FORWARD
        return {"cu_seqlens": self.cu_seqlens, "index": self.index, "direction": direction, "own": self.own}

    def boundaries(self) -> Tensor:
        """[S + 1]: where the sequences begin in the flattened [B · T, ...] tensors."""
        if self.cu_seqlens is not None:
            return self.cu_seqlens
        return torch.arange(self.sequences + 1, device=self.like.device) * self.like.shape[1]

    @overload
    def checked(self, name: str, value: Tensor, shape: tuple[int, ...], keep: bool = False) -> Tensor: ...

    @overload
    def checked(self, name: str, value: Tensor | None, shape: tuple[int, ...], keep: bool = False) -> Tensor | None: ...

    def checked(self, name: str, value: Tensor | None, shape: tuple[int, ...], keep: bool = False) -> Tensor | None:
        """``value`` in the type of the computation, or its own to ``keep``; ValueError for another shape, kind of type or device."""
        if value is None:
            return None
        if tuple(value.shape) != tuple(shape):
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
        expected = "torch.float64" if self.dtype == torch.float64 else "torch.float32 (or a half type)"
        if not (value.is_floating_point() or value.is_complex()) or _is_double(value) != (self.dtype == torch.float64):
            raise ValueError(f"{name}: expected {expected} on {self.like.device}, got {value.dtype} on {value.device}")
        if value.device != self.like.device:
            raise ValueError(f"{name}: expected {expected} on {self.like.device} as {self.name}, got {value.dtype} on {value.device}")
        return value if keep or value.is_complex() else value.to(self.dtype)


def without_autocast(kind: str) -> AbstractContextManager:
    """Inside the block autocast is off for a kind of device; "meta" knows no autocast."""
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _is_double(value: Tensor) -> bool:
    return value.dtype in (torch.float64, torch.complex128)
