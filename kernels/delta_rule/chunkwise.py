"""Plain PyTorch on any device: inside a chunk of tokens the steps are one triangular system, between chunks only the state is carried.

With S₀ the state before a chunk and r_i what step i writes along its key k_i, the reads inside the chunk are linear in the r's of
earlier steps: (I + A) R = U₀ − W₀ S₀ with A strictly lower triangular (WY form; Yang et al. 2024). One solve per chunk, many chunks at
once, gives R = U − W S₀, and with it the chunk's effect on the state as S' = P S₀ + N. Only that is done one chunk after the other.
Long inputs are cut into segments of many chunks, whose intermediate results the backward computes again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .chunkwise_test_time import titans_linear, ttt_linear, ttt_linear_fla, ttt_mlp  # noqa: F401
from .decays import Reads

CHUNK = 64  # rows of a triangular system: tokens × steps
SEGMENT = 1 << 22  # elements of k worked on at once: recomputing costs 40 % more time, so only where memory would be the limit


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q: [B, T, H, K]; k, v, beta: [B, T, steps, H, K|V|-]; log_decay: None, [B, T, H] or [B, T, H, K] → o [B, T, H, V], final state."""
    if not q.shape[1]:
        return v[:, :, -1].clone(), state.clone()
    return _segments(_delta_rule, k, (q * scale, k, v, beta, log_decay), state)


def _delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    steps = k.shape[2]
    length = _chunk_length(q.shape[1], steps)
    q_c, k_c, v_c, beta_c = (_chunks(value, length) for value in (q.unsqueeze(2), k, v, beta.unsqueeze(-1)))  # [C, B, H, L, steps, ...]
    g_c = None if log_decay is None else _chunks(log_decay.reshape(*q.shape[:2], 1, q.shape[2], -1), length)
    reads = Reads(torch.cat([k_c, q_c], -2), k_c, g_c, reach=(*range(steps), steps))
    scores = reads.scores.unflatten(-2, (length, steps + 1))
    lower = (beta_c * scores[..., :-1, :]).flatten(-3, -2)  # [C, B, H, L·steps, L·steps]
    u, w = _solve(lower, (beta_c * v_c).flatten(-3, -2), (beta_c * k_c * reads.since).flatten(-3, -2))
    k_end = (k_c * reads.until).flatten(-3, -2).mT
    states, final = _carry(_diagonal(reads, k_end) - k_end @ w, k_end @ u, state)
    out = scores[..., -1, :] @ (u - w @ states) + (q_c * reads.since).squeeze(-2) @ states
    return _unchunk(out, q.shape[1]), final


def generalized_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k, a, b, log_decay: [B, T, H, K]; v: [B, T, H, V] → o [B, T, H, V], final state."""
    if not q.shape[1]:
        return v.clone(), state.clone()
    return _segments(_generalized_delta_rule, k, (q * scale, k, v, a, b, log_decay), state)


def _generalized_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    length = _chunk_length(q.shape[1], 1)
    q_c, k_c, v_c, a_c, b_c, g_c = (_chunks(value.unsqueeze(2), length) for value in (q, k, v, a, b, log_decay))  # [C, B, H, L, 1, ...]
    reads = Reads(torch.cat([a_c, q_c], -2), torch.cat([b_c, k_c], -2), g_c, reach=(0, 2), before=(True, False))
    a_scores, q_scores = reads.scores.unflatten(-2, (length, 2)).unflatten(-1, (length, 2)).unbind(-3)  # [C, B, H, L, L, 2]
    a_start, q_start = (torch.cat([a_c, q_c], -2) * reads.since).unbind(-2)
    b_end, k_end = (torch.cat([b_c, k_c], -2) * reads.until).unbind(-2)
    v_c = v_c.squeeze(-2)
    u, w = _solve(-a_scores[..., 0], a_scores[..., 1] @ v_c, a_start)
    states, final = _carry(_diagonal(reads, b_end.mT) + b_end.mT @ w, b_end.mT @ u + k_end.mT @ v_c, state)
    out = q_scores[..., 0] @ (u + w @ states) + q_scores[..., 1] @ v_c + q_start @ states
    return _unchunk(out, q.shape[1]), final


def _segments(run: Callable, k: Tensor, timed: tuple[Tensor | None, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    """``run(*timed, state)``, segment by segment where that is long; k: [B, T, ...]."""
    length = k.shape[1]
    segment = CHUNK * max(SEGMENT * length // max(k.numel(), 1) // CHUNK, 1)
    if length <= segment:
        return run(*timed, state)
    parts = [[None] * -(-length // segment) if value is None else value.split(segment, 1) for value in timed]
    outputs = []
    for part in zip(*parts, strict=True):
        out, state = checkpoint(run, *part, state, use_reentrant=False, preserve_rng_state=False)
        outputs.append(out)
    return torch.cat(outputs, 1), state


def _chunk_length(length: int, steps: int) -> int:
    """Tokens per chunk: a power of two, no more than are there."""
    full = max(CHUNK // steps, 1)
    return 1 << min(full.bit_length() - 1, (length - 1).bit_length())


def _chunks(value: Tensor, length: int) -> Tensor:
    """[B, T, steps, H, ...] → [T / length, B, H, length, steps, ...]; zeros, which leave the state as it is, fill the last chunk."""
    missing = -value.shape[1] % length
    if missing:
        value = F.pad(value, (0, 0) * (value.dim() - 2) + (0, missing))
    value = value.unflatten(1, (-1, length))  # [B, C, L, steps, H, ...]
    return value.permute(1, 0, 4, 2, 3, *range(5, value.dim())).contiguous()


def _unchunk(value: Tensor, length: int) -> Tensor:
    """[C, B, H, L, V] → [B, T, H, V]."""
    return value.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


def _diagonal(reads: Reads, like: Tensor) -> Tensor:
    """The decay of a whole chunk as a matrix [..., K, K]; like: [..., K, rows]."""
    total = reads.total.squeeze(-2) if isinstance(reads.total, Tensor) else reads.total
    return torch.eye(like.shape[-2], dtype=like.dtype, device=like.device) * total


def _solve(lower: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
    """(I + lower)⁻¹ right, for a strictly lower triangle."""
    solved = torch.linalg.solve_triangular(lower, torch.cat(right, -1), upper=False, unitriangular=True)
    return solved.split([value.shape[-1] for value in right], -1)


def _carry(transition: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_{c+1} = transition_c S_c + added_c: [C, B, H, K, K], [C, B, H, K, V] → states before the chunks [C, B, H, K, V], final state."""
    shape, states = state.shape, []
    state = state.flatten(0, 1)
    for transition_c, added_c in zip(transition.flatten(1, 2).unbind(0), added.flatten(1, 2).unbind(0), strict=True):
        states.append(state)
        state = torch.baddbmm(added_c, transition_c, state)
    return torch.stack(states).unflatten(1, shape[:2]), state.unflatten(0, shape[:2])
