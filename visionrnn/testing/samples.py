"""Samples: one entry per form of a recurrence, from which tests and benchmarks make inputs of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import visionrnn.kernels

BOUNDS = {torch.float64: 5, torch.float32: 5, torch.float16: 2, torch.bfloat16: 2}  # × the reference's own error in that type


def error(value: Tensor, exact: Tensor) -> float:
    """max |value - exact| / max |exact|, in double precision; 0 for empty tensors. Raises ValueError when the shapes differ."""
    if value.shape != exact.shape:
        raise ValueError(f"shapes differ: {list(value.shape)} and {list(exact.shape)}")
    if not value.numel():
        return 0.0
    wide = torch.complex128 if exact.is_complex() else torch.float64
    value, exact = value.detach().to(wide), exact.detach().to(wide)
    return float((value - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


@dataclass(frozen=True)
class Sample:
    """How to call one form of a recurrence.

    ``make(draw, batch, length, heads, key, value)`` gives the inputs; those named in ``timed`` have a time axis (axis 1, of
    ``length`` or a multiple of it), those in ``states`` one row per batch entry or sequence, the others neither.
    ``call(**inputs, return_final_state=True, ...)`` returns the output and a state or a tuple of states.
    ``exact``: False where torch's own exp, softplus and the like surround the native op: their vector and tail loops differ in the
    last bit, so that packed and separate runs cannot agree bit for bit.
    """

    name: str
    family: str
    kernel: str  # name of the back-end function
    call: Callable[..., Any]
    make: Callable[..., dict[str, Any]]
    timed: tuple[str, ...]
    states: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    exact: bool = True

    def inputs(
        self,
        batch: int = 2,
        length: int = 16,
        heads: int = 2,
        key: int = 8,
        value: int = 8,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Inputs in ``dtype`` (complex ones in the matching complex type), every tensor requiring gradients."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def prepared(given: Any) -> Any:
            if not isinstance(given, Tensor):
                return given
            return given.detach().to(dtype.to_complex() if given.is_complex() else dtype).requires_grad_()

        return {name: prepared(given) for name, given in self.make(draw, batch, length, heads, key, value).items()}

    def run(self, inputs: dict[str, Any], **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(output, states after the last step)."""
        out, state = self.call(**inputs, return_final_state=True, **self.options, **options)
        return out, state if isinstance(state, tuple) else (state,)

    def gradients(self, inputs: dict[str, Any], **options: Any) -> dict[str, Tensor]:
        """Output, states, and the gradient of a fixed scalar of both with respect to every tensor of the inputs."""
        inputs = {name: given.detach().clone().requires_grad_() if isinstance(given, Tensor) else given for name, given in inputs.items()}
        out, states = self.run(inputs, **options)
        loss = torch.stack([(value * value.conj()).real.sum() for value in (out, *states)]).sum()
        tensors = {name: given for name, given in inputs.items() if isinstance(given, Tensor)}
        gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
        found = {"out": out, **{f"state {i}": state for i, state in enumerate(states)}}
        return {**found, **{f"d {name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}}


SAMPLES: dict[str, Sample] = {}


def sample(
    family: str,
    function: str,
    timed: tuple[str, ...],
    states: tuple[str, ...] = (),
    kernel: str | None = None,
    call: Callable[..., Any] | None = None,
    options: dict[str, Any] | None = None,
    exact: bool = True,
) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """Decorator of a ``make`` function: registers it under its own name. ``kernel``: back-end function where its name differs."""

    def add(make: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        public = getattr(visionrnn.kernels, function)
        name = make.__name__
        SAMPLES[name] = Sample(name, family, kernel or function, call or public, make, timed, states, options or {}, exact)
        return make

    return add
