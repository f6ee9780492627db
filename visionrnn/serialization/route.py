"""How features travel from the rows of voxels through two scans and back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from visionrnn.kernels.packing import permuted_rows
from visionrnn.serialization.groups import Groups


@dataclass(frozen=True)
class Route:
    """Three steps, each a gathering of rows: ``read``, rows → tokens of the first scan, ``turn``, → those of the second, ``write``, → rows.

    Where each token is one voxel (no copies), ``back`` are the inverses of the three.
    """

    groups: Groups
    read: Tensor
    turn: Tensor
    write: Tensor
    back: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def through(cls, groups: Groups, orders: Tensor, places: Tensor) -> Route:
        """orders: [2, N], rows in the order of each scan; places: [2, N], where each row stands in them."""
        found = groups.finds(places[0])
        turn = groups.reads(found.index_select(0, orders[1]))
        back = None
        if groups.tokens is None:
            back = places[0], places[1].index_select(0, orders[0]), orders[1]
        return cls(groups, groups.reads(orders[0]), turn, groups.finds(places[1]), back)

    def steps(self) -> tuple[tuple[Tensor, Tensor | None], ...]:
        """(index, its inverse where it has one) of the three steps, for :func:`take`."""
        return tuple(zip((self.read, self.turn, self.write), self.back or (None,) * 3, strict=True))

    def orders(self) -> tuple[Tensor, Tensor] | None:
        """The row [N] of each token of the first and of the second scan, for kernels that read through it; None with copies."""
        return None if self.back is None else (self.read, self.back[2])


def take(rows: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
    """rows[index], [N, C]; with the inverse of a permutation the gradient is gathered rather than added up."""
    return rows.index_select(0, index) if inverse is None else permuted_rows(rows, index, inverse)
