"""How one block scans the tokens of a grid: along which paths, in which windows, in groups of how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.serialization.grids import Grids, gather, spread
from visionrnn.serialization.traversal2d import Step

Mixer = Callable[[Tensor, Tensor | None, int | None], Tensor]
"""Sequences [B, T, C], cu_seqlens and max_seqlen of packed ones → [B, T, C]."""


@dataclass(frozen=True)
class GridScan:
    """The paths of ``step``, in one call of the operator: they share its weights, and their results are averaged.

    ``window`` (rows, columns), ``shift``: see ``windowed_order``; None is the whole grid. ``group_size``: the ordered tokens of an image
    are cut into sequences of so many, the last of which may be shorter; None scans an image as one.
    """

    step: Step
    window: tuple[int, int] | None = None
    shift: bool = False
    group_size: int | None = None

    def __post_init__(self):
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size}: expected at least 1, or None for whole images")

    def __call__(self, mixer: Mixer, tokens: Tensor, grids: Grids) -> Tensor:
        """[B, T, C] (or packed) → [B, T, C], every token in its old place."""
        found = grids.orders(self.step, tokens.device, self.window, self.shift)
        ordered = tokens if found is None else spread(tokens, *found)
        scanned = self._scan(mixer, ordered, grids).reshape(ordered.shape)
        if found is None:
            return scanned
        paths = len(self.step)
        return gather(scanned, *found) if paths == 1 else gather(scanned, *found) / paths

    def _scan(self, mixer: Mixer, tokens: Tensor, grids: Grids) -> Tensor:
        """Tokens [B, P · T, C] in order → the same, cut as the mixer saw them."""
        size, width = self.group_size, tokens.shape[-1]
        if grids.packed:
            return mixer(tokens, *grids.boundaries(tokens.device, len(self.step), size))
        length = grids.lengths[0]
        if size is None or length <= size:
            return mixer(tokens.reshape(-1, length, width), None, None)
        if length % size == 0:  # groups that are all alike need no packing
            return mixer(tokens.reshape(-1, size, width), None, None)
        number = tokens.shape[0] * len(self.step)  # len() would fix the size of a batch in a traced graph
        starts = torch.arange(0, length, size, device=tokens.device) + torch.arange(number, device=tokens.device).unsqueeze(1) * length
        bounds = torch.cat([starts.flatten(), starts.new_full((1,), number * length)])
        return mixer(tokens.reshape(1, -1, width), bounds, size)
