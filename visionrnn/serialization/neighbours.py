"""Which voxels have neighbours among the 26 around them, found by binary search in sorted coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AHEAD = tuple((x, y, z) for x in range(2) for y in range(-1, 2) for z in range(-1, 2) if (x, y, z) > (0, 0, 0))
OFFSETS = tuple((-x, -y, -z) for x, y, z in reversed(AHEAD)) + AHEAD
"""Steps (x, y, z) to the 26 neighbours, ascending; the opposite of the i-th is the (25 − i)-th."""


@dataclass(frozen=True)
class Neighbours:
    """table: [26, N] int64, the row of the neighbour at each of OFFSETS, −1 where there is none; counts: how many there are, per offset."""

    table: Tensor
    counts: tuple[int, ...]

    def of_rows(self, place: Tensor, row: Tensor) -> Neighbours:
        """The same neighbours for rows in another order: row i stands at ``place[i]`` here, and place p is row ``row[p]`` there."""
        table = self.table.index_select(1, place)
        known = row.index_select(0, table.clamp(min=0).flatten()).view_as(table)
        return Neighbours(torch.where(table < 0, table, known), self.counts)


def search_ahead(keys: Tensor, strides: tuple[int, int]) -> Tensor:
    """[13, n]: for each of AHEAD the position of the neighbour in ``keys``, −1 where there is none.

    keys: [n + 1] distinct and ascending, x · strides[0] + y · strides[1] + z, in which steps out of the grid lead to keys that no
    voxel has; then, from any position on, one same large number. One search per line of three: neighbours along z follow each other.
    """
    wanted_from, last = keys[:-1], len(keys) - 1
    found = keys.new_empty(len(AHEAD), last)
    here = torch.arange(1, last + 1, device=keys.device)  # of (0, 0, 1): the next one
    for i, (x, y, z) in enumerate(AHEAD):
        wanted = wanted_from + (x * strides[0] + y * strides[1] + z)
        if z == -1:
            here = torch.searchsorted(keys, wanted).clamp_(max=last)
        present = keys.index_select(0, here) == wanted
        found[i] = torch.where(present, here, -1)
        here = here + present  # where the neighbour at z is present, the key after it is the first candidate for z + 1
        here.clamp_(max=last)
    return found


def both_ways(ahead: Tensor, counts: tuple[int, ...]) -> Neighbours:
    """ahead: [13, N], as :func:`search_ahead` finds them; counts: their numbers, [13]."""
    number = ahead.shape[1]
    rows = torch.arange(number, device=ahead.device).expand_as(ahead)
    behind = ahead.new_full((len(AHEAD), number + 1), -1).scatter_(1, torch.where(ahead < 0, number, ahead), rows)
    return Neighbours(torch.cat([behind[:, :number].flip(0), ahead]), (*reversed(counts), *counts))
