"""Specification of the test-time regressions: inner gradient steps one token after the other, in any floating-point type.

A learning rate of -inf marks steps beyond the end of a sequence: they have no output worth reading and leave the state as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .test_time import BLANK


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mini_batch_size: int,
    eps: float,
    form: str = "paper",
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v: [B, T, H, D]; learning_rate: [B, T, H]; norm_*: [H, D]; token_scale: [mini_batch_size], ≥ 0; weight: [B, H, D, D]
    (key × value); bias: [B, H, D] → o [B, T, H, D], final weight, final bias."""
    outputs, scales = [], token_scale.unbind(0)
    weight, bias = weight.clone(), bias.clone()
    for t, (q_t, k_t, v_t, rate) in enumerate(zip(q.unbind(1), k.unbind(1), v.unbind(1), learning_rate.unbind(1), strict=True)):
        scale = scales[t % mini_batch_size]
        if t % mini_batch_size == 0:
            weight_0, bias_0, weight_sum, bias_sum = weight, bias, torch.zeros_like(weight), torch.zeros_like(bias)
        real = rate > BLANK  # [B, H]
        rate = torch.where(real, rate, 0)[..., None]
        gradient = inner_gradient(_apply(weight_0, k_t) + bias_0, v_t - k_t, norm_weight, norm_bias, eps)
        key_rate, query_rate = (1, scale * rate) if form == "fla" else (rate, scale.expand_as(rate))
        weight_sum = weight_sum + k_t[..., None] * (key_rate * gradient)[..., None, :]
        bias_sum = bias_sum + key_rate * gradient
        weight_t, bias_t = weight_0 - query_rate[..., None] * weight_sum, bias_0 - query_rate * bias_sum
        z = _apply(weight_t, q_t) + bias_t
        outputs.append((z if form == "fla" else q_t) + layer_norm(z, norm_weight, norm_bias, eps))
        weight, bias = torch.where(real[..., None, None], weight_t, weight), torch.where(real[..., None], bias_t, bias)
    return torch.stack(outputs, 1) if outputs else q.clone(), weight, bias


def ttt_linear_fla(*arguments: Tensor, mini_batch_size: int, eps: float, **named: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the learning rate of the query's step, and the residual around the inner output."""
    return ttt_linear(*arguments, mini_batch_size=mini_batch_size, eps=eps, form="fla", **named)


def layer_norm(z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Over the last axis; z: [..., H, D]; weight, bias: [H, D]."""
    centred = z - z.mean(-1, keepdim=True)
    return weight * centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() + bias


def inner_gradient(z: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """∂/∂z ½ |LN(z) - target|²; z, target: [..., H, D]."""
    centred = z - z.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    normal = centred * inverse
    slope = (weight * normal + bias - target) * weight
    return inverse * (slope - slope.mean(-1, keepdim=True) - normal * (slope * normal).mean(-1, keepdim=True))


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrixᵀ vector; matrix: [B, H, K, V]; vector: [B, H, K] → [B, H, V]."""
    return (matrix * vector[..., None]).sum(-2)
