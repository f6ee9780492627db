"""The token grids of a batch of images, and the orders and boundaries that scans over them need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.serialization.constants import kept
from visionrnn.serialization.traversal2d import Path, Step, path_order, windowed_order

Order = tuple[Tensor, Tensor]
"""(order, place): the token read at every step, and the step at which every token is read; int64."""


@dataclass(frozen=True)
class Grids:
    """What size the token grids (rows, columns) of a batch are.

    Images of one size: one entry in ``sizes``, tokens [B, H · W, C]. Images of different sizes are ``packed``: an entry for each, tokens
    [1, Σ H · W, C], image after image, each row by row.
    """

    sizes: tuple[tuple[int, int], ...]
    packed: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens of each entry of ``sizes``."""
        return [height * width for height, width in self.sizes]

    def order(self, path: Path, device: torch.device, window: tuple[int, int] | None = None, shift: bool = False) -> Order | None:
        """(order, place), each [T], of one path through every image; None where it keeps the tokens as they are.

        ``window`` and ``shift``: see ``windowed_order``; None is the whole grid.
        """
        found = self.orders((path,), device, window, shift)
        return None if found is None else (found[0][0], found[1][0])

    def orders(self, step: Step, device: torch.device, window: tuple[int, int] | None = None, shift: bool = False) -> Order | None:
        """(order, place), each [P, T], of all P paths of a step; None where one path keeps the tokens as they are."""
        if step == (Path("raster"),) and all(_is_one_window(size, window, shift) for size in self.sizes):
            return None
        return _orders(self.sizes, step, window, shift, device)

    def boundaries(self, device: torch.device, paths: int = 1, group_size: int | None = None) -> tuple[Tensor, int] | tuple[None, None]:
        """(cu_seqlens, max_seqlen) of packed tokens; (None, None) for images of one size.

        ``paths``: the tokens are there so many times, one copy of the pack after the other. ``group_size`` cuts every image into
        sequences of so many tokens, the last of which may be shorter.
        """
        if not self.packed:
            return None, None
        return _boundaries(self.sizes, paths, group_size, device)


def _is_one_window(size: tuple[int, int], window: tuple[int, int] | None, shift: bool) -> bool:
    return window is None or all(extent + (part // 2 if shift else 0) <= part for extent, part in zip(size, window, strict=True))


@kept(128)  # a megabyte each for a path through 256 × 256 tokens
def _orders(sizes: tuple[tuple[int, int], ...], step: Step, window: tuple[int, int] | None, shift: bool, device: torch.device) -> Order:
    rows = []
    for path in step:
        orders, start = [], 0
        for height, width in sizes:
            order = windowed_order(path, height, width, window, shift, device) if window else path_order(path, height, width, device)
            orders.append(order + start)
            start += height * width
        rows.append(torch.cat(orders))
    order = torch.stack(rows)
    return order, torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=device).expand_as(order))


@kept(256)
def _boundaries(sizes: tuple[tuple[int, int], ...], paths: int, group_size: int | None, device: torch.device) -> tuple[Tensor, int]:
    lengths = [height * width for height, width in sizes] * paths
    if group_size is not None:
        lengths = [min(group_size, length - start) for length in lengths for start in range(0, length, group_size)]
    return torch.tensor([0, *lengths]).cumsum(0).to(device, non_blocking=True), max(lengths, default=0)


def reorder(tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """tokens[:, order] of [B, T, C], ``place`` the inverse of ``order``, each [T]: the gradient is gathered too, not added up."""
    return _Spread.apply(tokens, order.unsqueeze(0), place.unsqueeze(0))


def spread(tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """[B, T, C] → [B, P · T, C]: the tokens along each of P paths, one path after the other. ``order``, ``place``: [P, T]."""
    return _Spread.apply(tokens, order, place)


def gather(tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """[B, P · T, C] → [B, T, C]: the sum of each token's P values; the transpose of :func:`spread`."""
    return _Gather.apply(tokens, order, place)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(order, place)
        return tokens.index_select(1, order.flatten())

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Gather.apply(grad, *ctx.saved_tensors), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(order, place)
        paths, length = place.shape
        if paths == 1:
            return tokens.index_select(1, place[0])
        starts = torch.arange(paths, device=place.device).unsqueeze(1) * length
        return tokens.index_select(1, (place + starts).flatten()).unflatten(1, (paths, length)).sum(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Spread.apply(grad, *ctx.saved_tensors), None, None
