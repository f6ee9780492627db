"""Launches the Triton kernels of TTT-Linear, in both of its forms, as custom ops with backward ops of their own."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch, product_precision
from ..native import watch, watched_gradients
from ..spans import Spans

FORWARD, BACKWARD = "delta_rule.triton_test_time_kernels.", "delta_rule.triton_test_time_backward_kernels."
LEAST = 16  # rows and columns of a tile that tensor cores multiply


def ttt_linear(
    q: Tensor, k: Tensor, v: Tensor, learning_rate: Tensor, norm_weight: Tensor, norm_bias: Tensor, token_scale: Tensor, weight: Tensor,
    bias: Tensor, *, mini_batch_size: int, eps: float, cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
    late: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k, v: [B, T, H, D]; learning_rate: [B, T, H]; norm_*: [H, D]; token_scale: [mini_batch_size]; weight: [S, H, D, D];
    bias: [S, H, D] → o [B, T, H, D] in the type of q, final weight, final bias; batches as in ``Spans``.

    ``late``: the learning rate of the query's step counts, and the residual is around the inner output.
    """
    dtype = q.dtype
    if not dtype == k.dtype == v.dtype:
        q, k, v = q.float(), k.float(), v.float()
    values = (q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias)
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in values)
    o, weight, bias = _ttt_linear(*values, cu_seqlens, index, eps, late, direction, own, keep)[:3]
    return o.to(dtype), weight, bias


def ttt_linear_fla(*arguments: Tensor, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the learning rate of the query's step, and the residual around the inner output."""
    return ttt_linear(*arguments, **named, late=True)


def _chunk(size: int) -> int:
    """Steps of a chunk: mini-batches that make up 32 steps, so many that registers hold their rows twice over, or one longer one."""
    return size * max(1, 32 // size)


def _power(number: int) -> int:
    return max(LEAST, 1 << (number - 1).bit_length())


def _run(kernel: str, spans: Spans, q: Tensor, token_scale: Tensor, late: bool, arguments: dict[str, Any], work: float) -> None:
    """``work``: floating-point operations of a step of a head. Kernels over states have a program per sequence, the others per chunk."""
    heads, width = q.shape[2:]
    size, states = token_scale.shape[-1], kernel.endswith("states")
    chunk, block = _chunk(size), _power(width)
    constants = {
        "H": heads, "D": width, "M": size, "L": chunk, "LATE": late, "PRECISION": product_precision(),
        **({} if kernel.endswith("inputs") else {"BD": block}), **({} if states else {"BL": _power(chunk)}),
        **({} if kernel.endswith("outputs") else {"BM": _power(size)}),
    }  # fmt: skip
    # Columns multiplied at once for the scores of a mini-batch in the backward: few where operands take many registers.
    wide = q.dtype == torch.float32
    scores = {"BS": LEAST if wide else min(block, 64)} if kernel.endswith("backward_states") else {}
    launch(
        kernel, lambda c: (spans.sequences if states else spans.slots(chunk) * spans.directions, heads),
        {"token_scale": token_scale, **arguments, **spans.arguments()},
        [Config({**constants, "BK": tile, **scores}, warps, stages) for tile, warps, stages in _tiles(block, kernel, wide)],
        flops=work * spans.N * spans.directions * heads,
    )  # fmt: skip


def _tiles(block: int, kernel: str, wide: bool) -> list[tuple[int, int, int]]:
    """Rows of a matrix [D, D] worked on at once, warps, stages; ``wide``: products of float32, whose operands take more registers.

    Kernels over states keep the matrix in registers up to 64 channels, but for the backward of 32 in float32. Of the others few registers
    let more programs run at once.
    """
    if kernel.endswith("states"):
        if wide and kernel.endswith("backward_states") and block <= 32:
            return [(16, 4, 1)]
        if block <= 64:
            return [(block, 8, 1), *([] if wide else [(block, 4, 1)])]
        return [(16, 8, 1)] if wide or kernel.endswith("ttt_states") else [(32, 8, 1), (16, 8, 1)]
    if block > 64 or (block > 32 and not wide and kernel.endswith("inputs")):
        return [(16, 8, 1), (16, 4, 1)]
    if wide:
        return [(16, 4, 1)]
    return [(16, 2, 1), (16, 8, 1)] if kernel.endswith("inputs") else [(min(block, 32), 4, 1), (16, 4, 1), (16, 2, 1)]


@torch.library.custom_op("visionrnn::triton_ttt_linear", mutates_args=(), device_types=("cpu", "cuda"))
def _ttt_linear(
    q: Tensor, k: Tensor, v: Tensor, learning_rate: Tensor, norm_weight: Tensor, norm_bias: Tensor, token_scale: Tensor, weight: Tensor,
    bias: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    eps: float, late: bool, direction: int, own: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, final weight and bias; with ``keep`` what the backward needs: z, u, the weight at the beginning of each chunk and the inner
    gradients."""
    spans, (width, size) = Spans.of(q, cu_seqlens, index, direction, own), (q.shape[3], token_scale.shape[-1])
    o, final_weight, final_bias = q.new_empty(*spans.output(q), *q.shape[2:]), torch.empty_like(weight), torch.empty_like(bias)
    gradient, (kept_weight, kept_bias) = torch.empty_like(o), _kept(spans, weight, bias, size)
    z, u = (weight.new_empty(o.shape) if keep else None for _ in range(2))
    shared = {"k": k, "rate": learning_rate, "norm_weight": norm_weight, "norm_bias": norm_bias, "gradient": gradient, "eps": eps}
    shared |= {"kept_weight": kept_weight, "kept_bias": kept_bias}
    states = {"v": v, "weight": weight, "bias": bias, "final_weight": final_weight, "final_bias": final_bias, "z": z}
    _run(FORWARD + "ttt_states", spans, q, token_scale, late, {**shared, **states}, 4 * width**2)
    scores = 4 * width * _chunk(size)
    _run(FORWARD + "ttt_outputs", spans, q, token_scale, late, {**shared, "q": q, "o": o, "u": u}, 2 * width**2 + scores)
    if z is None or u is None:
        return o, final_weight, final_bias, weight.new_empty(0), weight.new_empty(0), weight.new_empty(0), q.new_empty(0)
    return o, final_weight, final_bias, z, u, kept_weight, gradient


def _kept(spans: Spans, weight: Tensor, bias: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Room for weight and bias of each chunk."""
    slots = spans.slots(_chunk(size)) * spans.directions
    return weight.new_empty(slots, *weight.shape[1:]), bias.new_empty(slots, *bias.shape[1:])


@_ttt_linear.register_fake
def _(
    q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias, cu_seqlens, index, eps, late, direction, own, keep
):  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    o = q.new_empty(*spans.output(q), *q.shape[2:])
    z = weight.new_empty(o.shape if keep else (0,))
    kept = _kept(spans, weight, bias, token_scale.shape[-1])[0] if keep else torch.empty_like(z)
    return o, torch.empty_like(weight), torch.empty_like(bias), z, torch.empty_like(z), kept, q.new_empty(z.shape)


@torch.library.custom_op("visionrnn::triton_ttt_linear_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _ttt_linear_backward(
    grad_o: Tensor, grad_weight: Tensor, grad_bias: Tensor, q: Tensor, k: Tensor, v: Tensor, learning_rate: Tensor, norm_weight: Tensor,
    norm_bias: Tensor, token_scale: Tensor, z: Tensor, u: Tensor, kept_weight: Tensor, gradient: Tensor,
    cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    eps: float, late: bool, direction: int, own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias."""
    spans, (heads, width), size = Spans.of(q, cu_seqlens, index, direction, own), q.shape[2:], token_scale.shape[-1]
    timed = {f"grad_{name}": value.new_empty(z.shape) for name, value in (("q", q), ("k", k), ("v", v))}
    timed["grad_rate"] = learning_rate.new_empty(z.shape[:3])
    norms = {f"grad_norm_{name}": z.new_empty(spans.sequences, heads, width) for name in ("weight", "bias")}
    first = {"grad_first_weight": torch.empty_like(grad_weight), "grad_first_bias": torch.empty_like(grad_bias)}
    kept_grad_weight, kept_grad_bias = _kept(spans, grad_weight, grad_bias, size)
    grad_scale = z.new_empty(len(kept_grad_weight), heads, size)
    to_answers, to_keys = torch.empty_like(gradient), torch.empty_like(gradient)
    shared = {"q": q, "k": k, "rate": learning_rate, "grad_o": grad_o.contiguous(), "grad_u": to_answers, "grad_z": to_keys}
    states = {
        **shared, **norms, **first, "v": v, "norm_weight": norm_weight, "norm_bias": norm_bias, "z": z, "u": u, "grad_v": timed["grad_v"],
        "grad_weight": grad_weight.contiguous(), "grad_bias": grad_bias.contiguous(), "eps": eps, "width": width,
        "kept_weight": kept_grad_weight, "kept_bias": kept_grad_bias,
    }  # fmt: skip
    _run(BACKWARD + "ttt_backward_states", spans, q, token_scale, late, states, 6 * width**2 + 4 * size * width)
    inputs = {
        **shared, **timed, "gradient": gradient, "kept_weight": kept_weight, "kept_grad_weight": kept_grad_weight,
        "kept_grad_bias": kept_grad_bias, "grad_scale": grad_scale, "width": width,
    }  # fmt: skip
    work = 6 * width**2 + 14 * width * _chunk(size)
    _run(BACKWARD + "ttt_backward_inputs", spans, q, token_scale, late, inputs, work)
    grad_q, grad_k, grad_v, grad_rate = map(spans.summed, timed.values())
    grad_norm_weight, grad_norm_bias = (_summed(value, spans) for value in norms.values())
    grad_scale = _summed(grad_scale.sum(1), spans)
    grad_weight, grad_bias = first.values()
    return grad_q, grad_k, grad_v, grad_rate, grad_norm_weight, grad_norm_bias, grad_scale, grad_weight, grad_bias


def _summed(parts: Tensor, spans: Spans) -> Tensor:
    """[programs of both directions, ...] → the gradient of a constant, [2, ...] where each direction has its own."""
    return parts.unflatten(0, (2, len(parts) // 2)).sum(1) if spans.own else parts.sum(0)


@_ttt_linear_backward.register_fake
def _(grad_o, grad_weight, grad_bias, q, k, v, learning_rate, norm_weight, norm_bias, token_scale, *_):
    return tuple(map(torch.empty_like, (q, k, v, learning_rate, norm_weight, norm_bias, token_scale, grad_weight, grad_bias)))


def _setup(ctx, inputs, output):
    *values, _, _, cu_seqlens, index, ctx.eps, ctx.late, ctx.direction, ctx.own, _ = inputs
    ctx.save_for_backward(*values, *output[3:], cu_seqlens, index)
    watch(ctx, output[:3])


def _backward(ctx, *given):
    how = (ctx.eps, ctx.late, ctx.direction, ctx.own)
    return *_ttt_linear_backward(*watched_gradients(ctx, given), *ctx.saved_tensors, *how), *(None,) * 7


_ttt_linear.register_autograd(_backward, setup_context=_setup)
