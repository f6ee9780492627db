"""What later tokens of a chunk read of earlier ones, with the decays in between.

Products over stretches of tokens are put together as in a tree: for two neighbouring stretches, rows of the second read through their
decays since the middle, columns of the first through theirs until the middle. So every factor is a product of decays of the very tokens
between write and read: nothing is divided or subtracted, nothing overflows, and decays of any size keep their relative precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Reads:
    """``scores`` [..., L·R, L·C]: what row r of token t reads of column c of token s ≤ t: row · (decays of tokens s+1 … t ⊙ column).

    rows: [..., L, R, K]; columns: [..., L, C, K]; log_decay: None, [..., L, 1, 1] or [..., L, 1, K]; L a power of two. Row r reads the
    first ``reach[r]`` columns of its own token. Rows marked in ``before`` read before the decay of their own token, the others after it.
    ``since`` [..., L, 1 or R, K or 1], ``until`` and ``total`` are the decays from the chunk's start to the rows, from the columns to the
    chunk's end, and of the whole chunk; 1.0 where there are none.
    """

    scores: Tensor
    since: Tensor | float = 1.0
    until: Tensor | float = 1.0
    total: Tensor | float = 1.0

    def __init__(self, rows: Tensor, columns: Tensor, log_decay: Tensor | None, reach: tuple[int, ...], before: tuple[bool, ...] = ()):
        if log_decay is None:
            self.scores = _plain(rows, columns, reach)
        elif log_decay.shape[-1] == 1 and not any(before):
            one = torch.ones_like(log_decay)
            between = self._tree(one, one, log_decay.exp(), (1,), ())  # [..., L, L]
            between = between.repeat_interleave(columns.shape[-2], -1).repeat_interleave(rows.shape[-2], -2)
            self.scores = _plain(rows, columns, reach) * between
        else:
            self.scores = self._tree(rows, columns, log_decay.exp(), reach, before)

    def _tree(self, rows: Tensor, columns: Tensor, decay: Tensor, reach: tuple[int, ...], before: tuple[bool, ...]) -> Tensor:
        """The scores; sets the chunk's decays on the way. Stretches of m tokens: scores [..., L/m, m·R, m·C], since [..., L/m, m, R, K]."""
        since = torch.cat([torch.ones_like(decay) if early else decay for early in before], -2) if any(before) else decay
        since, until, total = since.unsqueeze(-3), torch.ones_like(decay).unsqueeze(-3), decay.unsqueeze(-3)
        scores = (rows @ columns.mT) * _inside(reach, columns)
        m, length = 1, rows.shape[-3]
        while m < length:
            since_1, since_2 = _halves(since, -4)
            until_1, until_2 = _halves(until, -4)
            total_1, total_2 = _halves(total, -4)
            scores_1, scores_2 = _halves(scores, -3)
            late = rows.unflatten(-3, (-1, 2, m)).select(-4, 1)  # [..., L/2m, m, R, K]
            early = columns.unflatten(-3, (-1, 2, m)).select(-4, 0)
            across = (late * since_2).flatten(-3, -2) @ (early * until_1).flatten(-3, -2).mT
            scores = torch.cat([torch.cat([scores_1, torch.zeros_like(across)], -1), torch.cat([across, scores_2], -1)], -2)
            since, until = torch.cat([since_1, since_2 * total_1], -3), torch.cat([until_1 * total_2, until_2], -3)
            total, m = total_1 * total_2, 2 * m
        self.since, self.until, self.total = since.squeeze(-4), until.squeeze(-4), total.squeeze(-4)
        return scores.squeeze(-3)


def _plain(rows: Tensor, columns: Tensor, reach: tuple[int, ...]) -> Tensor:
    """Scores without decay: a product, and zero wherever a row does not reach."""
    length, width = columns.shape[-3:-1]
    limit = torch.arange(length, device=rows.device)[:, None] * width + torch.tensor(reach, device=rows.device)  # [L, R]
    reached = torch.arange(length * width, device=rows.device) < limit.flatten()[:, None]
    return (rows.flatten(-3, -2) @ columns.flatten(-3, -2).mT) * reached


def _inside(reach: tuple[int, ...], columns: Tensor) -> Tensor:
    """[R, C]: which columns of its own token a row reads."""
    return torch.arange(columns.shape[-2], device=columns.device) < torch.tensor(reach, device=columns.device)[:, None]


def _halves(value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Neighbours along ``axis`` (negative): the first and the second of every two."""
    first, second = value.unflatten(axis, (-1, 2)).unbind(axis)
    return first, second
