"""Test-time regressions in plain PyTorch: all products of a mini-batch or chunk at once, a loop only from one to the next."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference_test_time import gelu, gelu_slope, inner_gradient, layer_norm
from .test_time import BLANK

CHUNK = 32  # steps of Titans' memory that are solved for together


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
    """The dual form (Sun et al. 2024, section 2.5): gradients of a mini-batch reach its queries through the scores q_i · k_j + 1.

    The 1 stands for the bias: keys and queries get a last channel of ones, W and b are one matrix [D + 1, D].
    """
    length = _number(q.shape[1])
    size = min(mini_batch_size, length)
    if length == 0:
        return q.clone(), weight.clone(), bias.clone()
    queries, keys, targets = (_lay(value, size) for value in (q, k, v - k))  # [n, B, H, m, D]
    key_rate, query_rate, state_rate = _rates(learning_rate, token_scale[:size], form)  # [n, B, H, m]
    queries, keys = (F.pad(value, (0, 1), value=1) for value in (queries, keys))
    scores = (queries @ keys.mT).tril() * query_rate.unsqueeze(-1) * key_rate.unsqueeze(-2)
    steps = torch.cat([scores, (state_rate.unsqueeze(-1) * keys).mT], -2)  # [n, B, H, m + D + 1, m]
    scale, shift = norm_weight.unsqueeze(1), norm_bias.unsqueeze(1)  # [H, 1, D]
    model = torch.cat([weight, bias.unsqueeze(-2)], -2)
    outputs = []
    for both, step, target in zip(torch.cat([keys, queries], -2).unbind(0), steps.unbind(0), targets.unbind(0), strict=True):
        at_keys, at_queries = (both @ model).split(size, -2)
        to_queries, to_model = (step @ inner_gradient(at_keys, target, scale, shift, eps)).split([size, model.shape[-2]], -2)
        outputs.append(at_queries - to_queries)
        model = model - to_model
    z = _back(outputs, length)
    out = (z if form == "fla" else q) + layer_norm(z, norm_weight, norm_bias, eps)
    return out, model[..., :-1, :].clone(), model[..., -1, :].clone()


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
    """The dual form for each of the two layers, one after the other."""
    length = _number(q.shape[1])
    size = min(mini_batch_size, length)
    if length == 0:
        return q.clone(), weight_in.clone(), bias_in.clone(), weight_out.clone(), bias_out.clone()
    queries, keys, targets = (_lay(value, size) for value in (q, k, v - k))
    key_rate, query_rate, state_rate = _rates(learning_rate, token_scale[:size], "paper")
    queries, keys = (F.pad(value, (0, 1), value=1) for value in (queries, keys))
    rates = query_rate.unsqueeze(-1) * key_rate.unsqueeze(-2)  # [n, B, H, m, m]
    scores = (queries @ keys.mT).tril() * rates
    steps = torch.cat([scores, (state_rate.unsqueeze(-1) * keys).mT], -2)
    scale, shift = norm_weight.unsqueeze(1), norm_bias.unsqueeze(1)
    first, second = torch.cat([weight_in, bias_in.unsqueeze(-2)], -2), torch.cat([weight_out, bias_out.unsqueeze(-2)], -2)
    parts = (torch.cat([keys, queries], -2), steps, targets, rates, state_rate.unsqueeze(-2))
    outputs = []
    for both, step, target, rate, state_rate_i in zip(*(part.unbind(0) for part in parts), strict=True):
        at_keys, at_queries = (both @ first).split(size, -2)  # [B, H, m, F]
        hidden = F.pad(gelu(at_keys), (0, 1), value=1)
        gradient_out = inner_gradient(hidden @ second, target, scale, shift, eps)
        gradient_in = gradient_out @ second[..., :-1, :].mT * gelu_slope(at_keys)
        to_queries, to_first = (step @ gradient_in).split([size, first.shape[-2]], -2)
        hidden_queries = F.pad(gelu(at_queries - to_queries), (0, 1), value=1)
        outputs.append(hidden_queries @ second - (hidden_queries @ hidden.mT).tril() * rate @ gradient_out)
        first, second = first - to_first, second - hidden.mT * state_rate_i @ gradient_out
    out = q + layer_norm(_back(outputs, length), norm_weight, norm_bias, eps)
    return out, *(value.clone() for model in (first, second) for value in (model[..., :-1, :], model[..., -1, :]))


def titans_linear(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, eta: Tensor, alpha: Tensor, memory: Tensor, momentum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact, chunk by chunk: within one, M_t is linear in the M, S it began with and in the errors e_s so far,

        M_t = w_t,M M + w_t,S S - Σ_{s≤t} w_t,s 2θ_s k_s e_sᵀ ,

    whose coefficients run through both decays. e_t reads M_{t-1}, so the errors solve a unit triangular system, as in the delta rule.
    """
    length = _number(q.shape[1])
    size = min(CHUNK, length)
    if length == 0:
        return v.clone(), memory.clone(), momentum.clone()
    q, k, v = (_lay(value, size) for value in (q, k, v))  # [n, B, H, c, K or V]
    theta, eta, alpha = (_lay(value, size, blank) for value, blank in ((theta, BLANK), (eta, 1), (alpha, 0)))  # [n, B, H, c]
    real = theta > BLANK
    rate = 2 * torch.where(real, theta, 0)
    before, after, last = _titans_coefficients(eta, 1 - alpha, real)
    by_memory, by_momentum = (torch.cat([rows[..., i : i + 1] * w for rows, w in ((before, k), (after, q))], -2) for i in range(2))
    reads = torch.cat([by_memory, by_momentum], -1)  # [n, B, H, 2c, 2K]: errors above, outputs below
    system = before[..., 2:] * (k @ k.mT) * rate.unsqueeze(-2)  # strictly lower
    right = torch.cat([reads[..., :size, :], v], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    error_reads, values = solved.split([2 * k.shape[-1], v.shape[-1]], -1)
    reads = torch.cat([error_reads, reads[..., size:, :]], -2)
    ends = torch.stack([after[..., -1, :], last], -2)  # [n, B, H, 2, 2 + c]: what M and S are made of at the end
    to_output = after[..., 2:] * (q @ k.mT) * rate.unsqueeze(-2)
    to_states = ((ends[..., 2:] * rate.unsqueeze(-2)).unsqueeze(-2) * k.mT.unsqueeze(-3)).flatten(-3, -2)
    steps = torch.cat([to_output, to_states], -2)  # [n, B, H, c + 2K, c]
    states, outputs = torch.stack([memory, momentum], 2), []  # [B, H, 2, K, V]
    for read, value, step, end in zip(reads.unbind(0), values.unbind(0), steps.unbind(0), ends[..., :2].unbind(0), strict=True):
        flat = states.flatten(2, 3)
        error, out = (read @ flat).split(size, -2)
        out_step, state_step = (step @ (error - value)).split([size, flat.shape[-2]], -2)
        outputs.append(out - out_step)
        states = (end @ states.flatten(3)).unflatten(-1, states.shape[3:]) - state_step.unflatten(-2, states.shape[2:4])
    return _back(outputs, length), states[:, :, 0].clone(), states[:, :, 1].clone()


def _titans_coefficients(eta: Tensor, keep: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[..., c] → of M before each step and after it, [..., c, 2 + c], and of S after the last step, [..., 2 + c].

    Columns: the first M, the first S, and what the steps of the chunk add to S. Only products, so decays of zero are exact.
    """
    size = eta.shape[-1]
    unit = torch.eye(2 + size, dtype=eta.dtype, device=eta.device)
    memory, momentum = unit[0].expand(*eta.shape[:-1], -1), unit[1].expand(*eta.shape[:-1], -1)
    rows = [memory]
    steps = zip(eta.unbind(-1), keep.unbind(-1), real.to(eta.dtype).unbind(-1), unit[2:].unbind(0), strict=True)
    for eta_t, keep_t, real_t, added in steps:
        momentum = eta_t.unsqueeze(-1) * momentum + added
        memory = keep_t.unsqueeze(-1) * memory + real_t.unsqueeze(-1) * momentum
        rows.append(memory)
    return torch.stack(rows[:-1], -2), torch.stack(rows[1:], -2), momentum


def _rates(learning_rate: Tensor, token_scale: Tensor, form: str) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T, H] → how a key's gradient counts, what the query multiplies it with, and how it counts in the state at the end of its
    mini-batch, each [n, B, H, m] or less. The last real step gives the scale of the state, so blanks after it change nothing."""
    rate = _lay(learning_rate, len(token_scale), BLANK)
    real = rate > BLANK
    rate = torch.where(real, rate, 0)
    last = (real.sum(-1, keepdim=True) - 1).clamp(min=0)  # [n, B, H, 1]
    last_scale = token_scale.expand_as(rate).gather(-1, last)
    if form == "fla":
        key_rate = real.to(rate.dtype)
        return key_rate, token_scale * rate, last_scale * rate.gather(-1, last) * key_rate
    return rate, token_scale.expand_as(rate), last_scale * rate


def _number(size: int) -> int:
    """``size`` itself; a graph that is being traced takes it as known, as the number of rounds of the loops must be."""
    return len(range(size))


def _lay(value: Tensor, size: int, blank: float = 0) -> Tensor:
    """[B, T, H, ...] → [n, B, H, size, ...], n parts of ``size`` steps, the last filled up."""
    missing = -value.shape[1] % size
    value = F.pad(value, (0, 0) * (value.dim() - 2) + (0, missing), value=blank).unflatten(1, (-1, size))
    return value.transpose(0, 1).transpose(2, 3)


def _back(parts: list[Tensor], length: int) -> Tensor:
    """The inverse: n of [B, H, size, D] → [B, T, H, D]."""
    return torch.cat(parts, 2)[:, :, :length].transpose(1, 2)
