"""The C++ prefix softmax as a custom op."""

import torch
from torch import Tensor

from ..native import call, watch, watched_gradients

CHUNK = 32  # steps between the states that the forward keeps for the backward, as in the C++ source


def prefix_softmax(
    scores: Tensor,
    values: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    maximum: Tensor,
    denominator: Tensor,
    numerator: Tensor,
    *,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scores, log_decay: [B, T, H]; values: [B, T, H, V]; bonus: [H]; states [S, H], [S, H], [S, H, V] → out [B, T, H, V], final states."""
    inputs = (scores, values, log_decay, bonus, maximum, denominator, numerator)
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    return _prefix_softmax(*inputs, cu_seqlens, reverse, keep)[:4]


@torch.library.custom_op("visionrnn::prefix_softmax", mutates_args=(), device_types="cpu")
def _prefix_softmax(
    scores: Tensor,
    values: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    maximum: Tensor,
    denominator: Tensor,
    numerator: Tensor,
    cu_seqlens: Tensor,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = values.new_empty(values.shape)
    m, c, n = maximum.new_empty(maximum.shape), denominator.new_empty(denominator.shape), numerator.new_empty(numerator.shape)
    kept = values.new_empty(_kept_shape(values, maximum, keep))
    call(
        "prefix_softmax_forward", scores, values, log_decay, bonus, maximum, denominator, numerator, cu_seqlens,
        out, m, c, n, kept if keep else None, len(maximum), *values.shape[2:], reverse,
    )  # fmt: skip
    return out, m, c, n, kept


@_prefix_softmax.register_fake
def _(scores, values, log_decay, bonus, maximum, denominator, numerator, cu_seqlens, reverse, keep):
    results = (value.new_empty(value.shape) for value in (values, maximum, denominator, numerator))
    return *results, values.new_empty(_kept_shape(values, maximum, keep))


def _kept_shape(values: Tensor, maximum: Tensor, keep: bool) -> tuple[int, ...]:
    batch, length, heads, width = values.shape
    return (batch * length // CHUNK + maximum.shape[0], heads * (width + 2)) if keep else (0,)


@torch.library.custom_op("visionrnn::prefix_softmax_backward", mutates_args=(), device_types="cpu")
def _prefix_softmax_backward(
    grad_out: Tensor,
    grad_maximum: Tensor,
    grad_denominator: Tensor,
    grad_numerator: Tensor,
    scores: Tensor,
    values: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    denominator: Tensor,
    numerator: Tensor,
    kept: Tensor,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of scores, values, log_decay, bonus (empty for those that are not there) and of the initial states."""
    states = (grad_maximum, grad_denominator, grad_numerator)
    grads = [value.new_empty(value.shape) for value in (scores, values, scores, grad_maximum, *states)]
    absent = {2: log_decay is None, 3: bonus is None}
    call(
        "prefix_softmax_backward", scores, values, log_decay, bonus, kept, denominator, numerator, grad_out.contiguous(),
        *(value.contiguous() for value in states), cu_seqlens,
        *(None if absent.get(i) else value for i, value in enumerate(grads)), len(grad_maximum), *values.shape[2:], reverse,
    )  # fmt: skip
    grad_log_decay = scores.new_empty(0) if log_decay is None else grads[2]
    grad_bonus = scores.new_empty(0) if bonus is None else grads[3].sum(0)
    return grads[0], grads[1], grad_log_decay, grad_bonus, grads[4], grads[5], grads[6]


@_prefix_softmax_backward.register_fake
def _(grad_out, grad_maximum, grad_denominator, grad_numerator, scores, values, log_decay, bonus, denominator, numerator, kept, *_):
    optional = (scores.new_empty(0) if value is None else value.new_empty(value.shape) for value in (log_decay, bonus))
    states = (value.new_empty(value.shape) for value in (grad_maximum, grad_denominator, grad_numerator))
    return scores.new_empty(scores.shape), values.new_empty(values.shape), *optional, *states


def _setup(ctx, inputs, output):
    scores, values, log_decay, bonus, _, _, _, cu_seqlens, ctx.reverse, _ = inputs
    _, _, denominator, numerator, kept = output
    ctx.save_for_backward(scores, values, log_decay, bonus, denominator, numerator, kept, cu_seqlens)
    watch(ctx, output[:4])


def _backward(ctx, *given):
    saved = ctx.saved_tensors
    grads = _prefix_softmax_backward(*watched_gradients(ctx, given), *saved, ctx.reverse)
    _, _, log_decay, bonus, *_ = saved
    present = (True, True, log_decay is not None, bonus is not None, True, True, True)
    return *(grad if there else None for grad, there in zip(grads, present, strict=True)), None, None, None


_prefix_softmax.register_autograd(_backward, setup_context=_setup)
