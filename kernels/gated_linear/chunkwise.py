"""Plain PyTorch on any device: dense products inside chunks, one state between chunks, memory linear in T.

The weight of a key for a later query is the exponential of a sum of log decays, or a product of decays, over just the steps between
them: nothing is divided, no large sums are subtracted in the type of the computation, and with log decays ≤ 0 no factor exceeds 1.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .rotation import in_turning_frame

CHUNK = 32
SEGMENT_ELEMENTS = 1 << 18  # of a segment's keys: what is worked on at a time stays near the cache


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor, *, bonus: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K]; v: [B, T, H, V]; log_decay: None, [B, T, H] or [B, T, H, K]; state: [B, H, K, V]; bonus: None or [H, K]
    → o [B, T, H, V], final state."""
    batch, length, heads, key = q.shape
    if length == 0:
        return v.clone(), state.clone()
    size = max(CHUNK, SEGMENT_ELEMENTS // max(batch * heads * key, 1) // CHUNK * CHUNK)
    decays = [None] * -(-length // size) if log_decay is None else log_decay.split(size, 1)
    outputs = []
    for q_s, k_s, v_s, decay_s in zip(q.split(size, 1), k.split(size, 1), v.split(size, 1), decays, strict=True):
        o, state = _segment(q_s, k_s, v_s, decay_s, state, bonus, scale)
        outputs.append(o)
    return torch.cat(outputs, 1), state


def complex_gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K], real; v: [B, T, H, V], real; log_decay: complex [B, T, H, K]; state: complex [B, H, K, V]
    → o [B, T, H, V], real, and the final state."""
    if q.shape[1] == 0:
        return v.clone(), state.clone()
    angle = log_decay.imag.double().cumsum(1)
    angles = angle, torch.zeros_like(angle[:, 0]), angle[:, -1]
    return in_turning_frame(partial(gated_linear_attention, bonus=None, scale=scale), q, k, v, log_decay, state, angles)


def max_plus_scan(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """m_t = max(log_decay_t + m_{t-1}, x_t). x, log_decay: [B, T, H]; state: [B, H] → m [B, T, H], final state.

    Doubling: after the pass with step s, x_t and log_decay_t are the maximum and the sum over the last 2 s steps.
    """
    length, step = x.shape[1], 1
    if length == 0:
        return x.clone(), state.clone()
    while step < length:
        x = torch.cat([x[:, :step], torch.maximum(x[:, :-step] + log_decay[:, step:], x[:, step:])], 1)
        log_decay = torch.cat([log_decay[:, :step], log_decay[:, :-step] + log_decay[:, step:]], 1)
        step *= 2
    m = torch.maximum(state[:, None] + log_decay, x)
    return m, m[:, -1].clone()


def _segment(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor, bonus: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    length = q.shape[1]
    size = min(CHUNK, 1 << (length - 1).bit_length())
    q, k, v = _chunks(q, size) * scale, _chunks(k, size).contiguous(), _chunks(v, size).contiguous()  # [B, H, n, size, K or V]
    own = (q * k).sum(-1) if bonus is None else (q * bonus[:, None, None] * k).sum(-1)  # [B, H, n, size], of each step with itself
    if log_decay is None:
        scores = (q @ k.transpose(-1, -2)).tril(-1) + own.diag_embed()
        decays, ahead, behind = None, q, k
    elif log_decay.dim() == 3:
        scores, ahead, behind, decays = _scalar_decay(q, k, own, _chunks(log_decay[..., None], size)[..., 0], bonus is not None)
    else:
        scores, ahead, behind, decays = _vector_decay(q, k, own, _chunks(log_decay, size), bonus is not None)
    states, state = _between_chunks(decays, behind.transpose(-1, -2) @ v, state)
    o = scores @ v + ahead @ states
    return o.flatten(2, 3).transpose(1, 2)[:, :length], state


def _chunks(value: Tensor, size: int) -> Tensor:
    """[B, T, H, K] → [B, H, n, size, K], with zeros behind the last step."""
    number = (value.shape[1] + size - 1) // size
    rest = number * size - value.shape[1]
    value = F.pad(value, (0, 0, 0, 0, 0, rest)) if rest else value
    return value.unflatten(1, (number, size)).permute(0, 3, 1, 2, 4)


def _between_chunks(decays: Tensor | None, updates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """decays: [B, H, n, K or 1]; updates: [B, H, n, K, V] → the state before each chunk [B, H, n, K, V], and the last."""
    before = []
    kept = [None] * updates.shape[2] if decays is None else decays[..., None].unbind(2)
    for decay, update in zip(kept, updates.unbind(2), strict=True):
        before.append(state)
        state = update + (state if decay is None else decay * state)
    return torch.stack(before, 2), state


def _scalar_decay(q: Tensor, k: Tensor, own: Tensor, log_decay: Tensor, exclusive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_decay: [B, H, n, size] → scores, queries as the state before the chunk sees them, keys as they enter the one after, decays.

    ``exclusive``: a query does not see its own step's decay. Sums are in double precision, where their differences are exact enough.
    """
    total = log_decay.double().cumsum(-1)
    seen = total - log_decay if exclusive else total
    between = (seen[..., :, None] - total[..., None, :]).to(q.dtype)
    later = torch.ones(between.shape[-2:], dtype=torch.bool, device=q.device).triu()
    weights = between.masked_fill(later, -torch.inf).exp()
    scores = torch.addcmul(own.diag_embed(), q @ k.transpose(-1, -2), weights)
    behind = (total[..., -1:] - total).to(q.dtype).exp()
    return scores, q * seen.to(q.dtype).exp()[..., None], k * behind[..., None], total[..., -1:].to(q.dtype).exp()


def _vector_decay(q: Tensor, k: Tensor, own: Tensor, log_decay: Tensor, exclusive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_decay: [B, H, n, size, K] → as :func:`_scalar_decay`.

    Blocks of 1, 2, 4, ... steps are joined in pairs. The scores of a pair's later queries with its earlier keys are a product of
    queries decayed since the seam and keys decayed up to it: all factors are products of decays, so they are ≤ 1.
    """
    total = log_decay.exp()  # [..., blocks, K], of a whole block
    ahead = (q if exclusive else q * total).unsqueeze(-2)  # [..., blocks, block, K], queries decayed since their block began
    behind = k.unsqueeze(-2)  # [..., blocks, block, K], keys decayed until their block ends
    scores = own[..., None, None]  # [..., blocks, block, block]
    while ahead.shape[-3] > 1:
        (first, later), (earlier, second) = _pairs(ahead, -3), _pairs(behind, -3)
        single = ahead.shape[-2] == 1
        cross = (later * earlier).sum(-1, keepdim=True) if single else later @ earlier.transpose(-1, -2)
        old, new = _pairs(scores, -3)
        scores = torch.cat([torch.cat([old, torch.zeros_like(old)], -1), torch.cat([cross, new], -1)], -2)
        total_first, total_second = _pairs(total, -2)
        ahead = torch.cat([first, later * total_first.unsqueeze(-2)], -2)
        behind = torch.cat([earlier * total_second.unsqueeze(-2), second], -2)
        total = total_first * total_second
    return scores.squeeze(-3), ahead.squeeze(-3), behind.squeeze(-3), total.squeeze(-2)


def _pairs(blocks: Tensor, dim: int) -> tuple[Tensor, ...]:
    """The first and the second of each pair of blocks."""
    return blocks.unflatten(dim, (-1, 2)).unbind(dim)
