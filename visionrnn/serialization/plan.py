"""What a set of voxel coordinates will be asked for, said before the set is made, so that one sort prepares all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Traversal(NamedTuple):
    """A registered serializer with its arguments: window as voxels along (x, y, z), ``shift`` moves windows by half of it."""

    serializer: str
    window: tuple[int, int, int]
    shift: bool


@dataclass(frozen=True)
class Plan:
    """traversals: in which orders voxels will be scanned. neighbours: whether their 3 × 3 × 3 neighbours will be needed."""

    traversals: tuple[Traversal, ...] = ()
    neighbours: bool = False


NOTHING = Plan()
