"""Complex decays in a frame that turns with the phases: real and imaginary rows of the state then decay as two real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_turning_frame(
    attend: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    angles: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Complex gated linear attention by ``attend(q, k, v, log_decay, state)``, a real one with 2 K keys.

    ``angles``: the sum of the phases up to and with each step [B, T, H, K], before the first step of each sequence and after its last
    [S, H, K]. They are in double precision, since they grow with T. Returns o [B, T, H, V], real, and the complex state [S, H, K, V].
    """
    angle, first, last = angles
    cosine, sine = angle.cos().to(q.dtype), -angle.sin().to(q.dtype)
    q, k = (torch.cat([value * cosine, value * sine], -1) for value in (q, k))
    state = state * _turn(-first, state)
    magnitude = torch.cat([log_decay.real, log_decay.real], -1)
    o, final = attend(q, k, v, magnitude, torch.cat([state.real, state.imag], -2))
    real, imaginary = final.chunk(2, -2)
    return o, torch.complex(real, imaginary) * _turn(last, state)


def _turn(angle: Tensor, like: Tensor) -> Tensor:
    """e^{i angle}, [S, H, K, 1] in the type of ``like``."""
    return torch.complex(angle.cos(), angle.sin()).to(like.dtype)[..., None]


def packed_angles(phase: Tensor, cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``angles`` of :func:`in_turning_frame` from the phase of each step [B, T, H, K]; the frame turns on from sequence to sequence."""
    steps = phase.double().flatten(0, 1)  # [N, H, K]
    edge = steps.new_zeros(1, *steps.shape[1:])
    if reverse:
        total = torch.cat([steps.flip(0).cumsum(0).flip(0), edge])
        angle, first, last = total[:-1], cu_seqlens[1:], cu_seqlens[:-1]
    else:
        total = torch.cat([edge, steps.cumsum(0)])
        angle, first, last = total[1:], cu_seqlens[:-1], cu_seqlens[1:]
    return angle.view(phase.shape), total.index_select(0, first), total.index_select(0, last)
