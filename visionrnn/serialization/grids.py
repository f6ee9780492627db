"""The token grids of a batch of images, and the orders and boundaries that scans over them need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from visionrnn.serialization.traversal2d import Path, path_order, windowed_order


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

    def order(
        self, path: Path, device: torch.device, window: tuple[int, int] | None = None, shift: bool = False
    ) -> tuple[Tensor, Tensor] | None:
        """(order, place), each [T]: the token read at every step along ``path``, and the step at which every token is read.

        None where a path keeps the tokens as they are. ``window`` and ``shift``: see ``windowed_order``; None is the whole grid.
        """
        if window is None and path == Path("raster"):
            return None
        # a traced graph makes its orders itself: tensors remembered from outside would become its constants
        orders = _orders if torch.compiler.is_compiling() else _kept_orders
        return orders(self.sizes, path, window, shift, device)

    def boundaries(self, device: torch.device) -> tuple[Tensor, int] | tuple[None, None]:
        """(cu_seqlens, max_seqlen) of packed tokens; (None, None) for images of one size."""
        if not self.packed:
            return None, None
        lengths = self.lengths
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(device, non_blocking=True)
        return bounds, max(lengths, default=0)


def _orders(
    sizes: tuple[tuple[int, int], ...], path: Path, window: tuple[int, int] | None, shift: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    orders, start = [], 0
    for height, width in sizes:
        order = windowed_order(path, height, width, window, shift, device) if window else path_order(path, height, width, device)
        orders.append(order + start)
        start += height * width
    whole = torch.cat(orders)
    return whole, whole.argsort()


@lru_cache(maxsize=256)
def _kept_orders(*arguments) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # they may serve training later
        return _orders(*arguments)


def reorder(tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """tokens[:, order] of [B, T, C], ``place`` the inverse of ``order``: the gradient is gathered too, not added up."""
    return _Reordering.apply(tokens, order, place)


class _Reordering(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(order, place)
        return tokens.index_select(1, order)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        order, place = ctx.saved_tensors
        return _Reordering.apply(grad, place, order), None, None
