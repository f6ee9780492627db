"""Specification of the test-time regressions: inner gradient steps one token after the other, in any floating-point type.

A learning rate of -inf marks steps beyond the end of a sequence: they have no output worth reading and leave the state as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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


def ttt_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor,
    weight_in: Tensor,
    bias_in: Tensor,
    weight_out: Tensor,
    bias_out: Tensor,
    *,
    mini_batch_size: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """As TTT-Linear, with weight_in: [B, H, D, F]; bias_in: [B, H, F]; weight_out: [B, H, F, D]; bias_out: [B, H, D]."""
    outputs, scales = [], token_scale.unbind(0)
    model = tuple(value.clone() for value in (weight_in, bias_in, weight_out, bias_out))
    for t, (q_t, k_t, v_t, rate) in enumerate(zip(q.unbind(1), k.unbind(1), v.unbind(1), learning_rate.unbind(1), strict=True)):
        if t % mini_batch_size == 0:
            start, sums = model, tuple(torch.zeros_like(value) for value in model)
        real = rate > BLANK  # [B, H]
        rate = torch.where(real, rate, 0)[..., None]
        hidden = _apply(start[0], k_t) + start[1]
        features = gelu(hidden)
        gradient = inner_gradient(_apply(start[2], features) + start[3], v_t - k_t, norm_weight, norm_bias, eps)
        gradient_in = (start[2] * gradient[..., None, :]).sum(-1) * gelu_slope(hidden)
        gradients = (k_t[..., None] * gradient_in[..., None, :], gradient_in, features[..., None] * gradient[..., None, :], gradient)
        sums = tuple(total + _rows(rate, value) * value for total, value in zip(sums, gradients, strict=True))
        stepped = tuple(value - scales[t % mini_batch_size] * total for value, total in zip(start, sums, strict=True))
        z = _apply(stepped[2], gelu(_apply(stepped[0], q_t) + stepped[1])) + stepped[3]
        outputs.append(q_t + layer_norm(z, norm_weight, norm_bias, eps))
        model = tuple(torch.where(_rows(real[..., None], new), new, old) for new, old in zip(stepped, model, strict=True))
    return torch.stack(outputs, 1) if outputs else q.clone(), *model


def titans_linear(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, eta: Tensor, alpha: Tensor, memory: Tensor, momentum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k: [B, T, H, K]; v: [B, T, H, V]; theta, eta, alpha: [B, T, H]; memory, momentum: [B, H, K, V] → o [B, T, H, V], final states."""
    outputs = []
    memory, momentum = memory.clone(), momentum.clone()
    for q_t, k_t, v_t, theta_t, eta_t, alpha_t in zip(*(value.unbind(1) for value in (q, k, v, theta, eta, alpha)), strict=True):
        real = (theta_t > BLANK)[..., None, None]
        theta_t, eta_t, alpha_t = (value[..., None, None] for value in (theta_t, eta_t, alpha_t))
        error = _apply(memory, k_t) - v_t
        new = eta_t * momentum - 2 * torch.where(real, theta_t, 0) * k_t[..., None] * error[..., None, :]
        momentum, memory = torch.where(real, new, momentum), torch.where(real, (1 - alpha_t) * memory + new, memory)
        outputs.append(_apply(memory, q_t))
    return torch.stack(outputs, 1) if outputs else v.clone(), memory, momentum


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


def _rows(factor: Tensor, like: Tensor) -> Tensor:
    """factor: [B, H, 1] → against [B, H, ...]."""
    return factor.reshape(*factor.shape[:2], *[1] * (like.dim() - 2))


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), Φ by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


def gelu_slope(x: Tensor) -> Tensor:
    """Derivative of :func:`gelu`."""
    factor, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = torch.tanh(factor * (x + cubic * x**3))
    return 0.5 * (1 + tanh) + 0.5 * factor * x * (1 - tanh.square()) * (1 + 3 * cubic * x.square())
