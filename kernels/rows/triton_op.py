"""Launches the kernels of Mamba's mixer around its scans, as custom ops."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from ..launch import Config, launch, product_precision
from ..spans import BOTH, Spans

MAX_CHANNELS = 256  # of the residual stream, whose rows a program holds


class Direction(NamedTuple):
    """The parameters of one direction: conv_weight [D, taps], the present step last; conv_bias [D] or None; weight [R + 2 S, D], of Δ's R
    low ones, B and C; step_weight [D, R], step_bias [D]; A_log [D, S]; D [D]."""

    conv_weight: Tensor
    conv_bias: Tensor | None
    weight: Tensor
    step_weight: Tensor
    step_bias: Tensor
    A_log: Tensor
    D: Tensor


class MixerInputs(NamedTuple):
    """What a selective scan takes, for both directions, c, delta, B and C in its order: c, delta [2, N, D]; B, C [2, N, S]; A [2, D, S];
    D [2, D]."""

    c: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: Tensor


def mixer_inputs(uz: Tensor, ahead: Direction, back: Direction, cu_seqlens: Tensor, index: Tensor | None = None) -> MixerInputs:
    """c = SiLU(conv(u)), [d; B; C] = W c, Δ = softplus(W_Δ d + b_Δ), A = -exp(A_log), for both directions in one launch.

    uz: [N, 2 D], the projected rows, u before z; ``cu_seqlens`` [S + 1]: sequences of positions; position p reads row ``index[p]``.
    Raises ValueError for widths that do not fit and for inputs that need gradients.
    """
    (outer, rank), states = ahead.step_weight.shape, ahead.A_log.shape[1]
    if uz.shape[1:] != (2 * outer,) or ahead.weight.shape != (rank + 2 * states, outer):
        raise ValueError(f"uz: expected [N, {2 * outer}] beside weight [{rank + 2 * states}, {outer}], got {list(uz.shape)}")
    if [None if value is None else value.shape for value in ahead] != [None if value is None else value.shape for value in back]:
        raise ValueError("back: expected parameters of the same shapes as ahead")
    _without_gradients(uz, *ahead, *back)
    ahead, back = (Direction(*(None if value is None else value.contiguous() for value in part)) for part in (ahead, back))  # type: ignore
    return MixerInputs(*_mixer_inputs(uz.contiguous(), *ahead, *back, cu_seqlens, index))


def mixer_output(
    y: Tensor,
    uz: Tensor,
    weight: Tensor,
    x: Tensor,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    index: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x + LN(W (Σ y ⊙ SiLU(z))), the norm only with ``gain``; [N, C] in the type of x, in one launch.

    y: [directions, N, D] in the order of the scan; uz: [N, 2 D] and x: [N, C] in that of rows, position p being row ``index[p]``;
    weight: [C, D]; gain, shift: [C]. Raises ValueError for widths that do not fit, more than 256 channels, inputs that need gradients.
    """
    number, width = x.shape
    if y.shape[1:] != (number, weight.shape[1]) or uz.shape != (number, 2 * weight.shape[1]) or len(weight) != width:
        got = [list(value.shape) for value in (y, uz, weight, x)]
        raise ValueError(f"expected y [directions, N, D], uz [N, 2 D], weight [C, D], x [N, C]; got {got}")
    if width > MAX_CHANNELS:
        raise ValueError(f"x: expected at most {MAX_CHANNELS} channels, got {width}")
    _without_gradients(y, uz, weight, x, gain, shift)
    shift = torch.zeros_like(gain) if gain is not None and shift is None else shift
    return _mixer_output(y.contiguous(), uz.contiguous(), weight.contiguous(), x.contiguous(), gain, shift, index, eps)


def _without_gradients(*values: Tensor | None) -> None:
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values):
        raise ValueError("the mixer's fused kernels have no backward: call them inside torch.no_grad()")


def power_of_two(number: int, least: int = 16) -> int:
    """The next one; tensor cores take no block below 16."""
    return max(least, 1 << (number - 1).bit_length())


@torch.library.custom_op("visionrnn::triton_mixer_inputs", mutates_args=(), device_types=("cpu", "cuda"))
def _mixer_inputs(
    uz: Tensor,
    conv_weight: Tensor, conv_bias: Optional[Tensor], weight: Tensor, step_weight: Tensor, step_bias: Tensor, A_log: Tensor, D: Tensor,  # noqa: UP045
    conv_weight_back: Tensor, conv_bias_back: Optional[Tensor], weight_back: Tensor, step_weight_back: Tensor, step_bias_back: Tensor,  # noqa: UP045
    A_log_back: Tensor, D_back: Tensor, cu_seqlens: Tensor, index: Optional[Tensor],  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = _buffers(uz, A_log)
    parameters = {
        "conv_weight": conv_weight, "conv_bias": conv_bias, "weight": weight, "step_weight": step_weight, "step_bias": step_bias,
        "A_log": A_log, "D": D,
    }  # fmt: skip
    backwards = (conv_weight_back, conv_bias_back, weight_back, step_weight_back, step_bias_back, A_log_back, D_back)
    spans, (channels, states) = Spans(0, len(uz), len(cu_seqlens) - 1, cu_seqlens, index, BOTH, False), A_log.shape
    rank = step_weight.shape[1]
    arguments = {
        "uz": uz, **{f"{name}_ahead": value for name, value in parameters.items()},
        **{f"{name}_back": value for name, value in zip(parameters, backwards, strict=True)},
        **dict(zip(("c", "delta", "B", "C", "A", "skip"), outputs, strict=True)), **spans.arguments(),
    }  # fmt: skip
    fixed = {
        "D": channels, "TAPS": conv_weight.shape[1], "RANK": rank, "STATES": states, "BLOCK_R": power_of_two(rank),
        "BLOCK_S": power_of_two(states), "PRECISION": product_precision(),
    }  # fmt: skip
    candidates = [
        Config({**fixed, "BLOCK_T": rows, "BLOCK_D": min(32, power_of_two(channels))}, warps, stages=1)
        for rows, warps in ((16, 4), (64, 8))
    ]
    products = 2 * len(uz) * 2 * channels * (conv_weight.shape[1] + 2 * rank + 2 * states)
    launch("rows.triton_kernels.mixer_inputs", lambda c: (2 * spans.slots(c["BLOCK_T"]),), arguments, candidates, flops=products)
    return outputs


def _buffers(uz: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    number, (channels, states) = len(uz), A_log.shape
    c, B, C = (uz.new_empty(2, number, width) for width in (channels, states, states))
    delta = uz.new_empty(2, number, channels, dtype=torch.float32)
    A, D = (delta.new_empty(2, *shape) for shape in (A_log.shape, (channels,)))
    return c, delta, B, C, A, D


@_mixer_inputs.register_fake
def _(uz, conv_weight, conv_bias, weight, step_weight, step_bias, A_log, D, *others):
    return _buffers(uz, A_log)


@torch.library.custom_op("visionrnn::triton_mixer_output", mutates_args=(), device_types=("cpu", "cuda"))
def _mixer_output(
    y: Tensor, uz: Tensor, weight: Tensor, x: Tensor, gain: Optional[Tensor], shift: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    eps: float,
) -> Tensor:  # fmt: skip
    (number, width), channels, out = x.shape, weight.shape[1], torch.empty_like(x)
    arguments = {"y": y, "uz": uz, "weight": weight, "gain": gain, "shift": shift, "x": x, "out": out, "index": index, "N": number}
    fixed = {"C": width, "D": channels, "DIRECTIONS": len(y), "EPS": eps, "BLOCK_C": power_of_two(width), "PRECISION": product_precision()}
    candidates = [
        Config({**fixed, "BLOCK_T": rows, "BLOCK_D": min(32, power_of_two(channels))}, warps, stages=2)
        for rows, warps in ((32, 8), (64, 8), (16, 8))
    ]
    read = sum(value.numel() * value.element_size() for value in (y, weight, x, out)) + number * channels * uz.element_size()
    launch(
        "rows.triton_kernels.mixer_output", lambda c: (-(-number // c["BLOCK_T"]),), arguments, candidates,
        flops=2 * number * channels * (width + len(y)), traffic=read + (0 if index is None else 8 * number),
    )  # fmt: skip
    return out


@_mixer_output.register_fake
def _(y, uz, weight, x, gain, shift, index, eps):
    return torch.empty_like(x)
