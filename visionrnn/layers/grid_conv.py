"""Depthwise convolution over the grids that tokens form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionrnn.serialization.constants import kept
from visionrnn.serialization.grids import Grids


class GridConv(nn.Conv2d):
    """Each channel of the token grids through a filter of its own, ``kernel`` × ``kernel``, zeros around each image; f behind it.

    f is SiLU with ``activation`` "silu", else nothing. ``weight`` is [C, 1, kernel, kernel] and starts as that of nn.Conv2d. Images of
    different sizes are laid on one canvas with zeros between them, so that a single convolution does them all. Raises ValueError for an
    even kernel, which has no centre.
    """

    def __init__(self, channels: int, kernel: int = 3, bias: bool = True, activation: str | None = None):
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: expected an odd number, so that every token is the centre of its window")
        if activation not in (None, "silu"):
            raise ValueError(f"activation={activation!r}; expected None or 'silu'")
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)
        self.activation = activation

    def forward(self, tokens: Tensor, grids: Grids, rotated: bool = False) -> Tensor:  # type: ignore[override]
        """tokens: [B, T, C] → [B, T, C]. ``rotated``: the filters turned by 180°, as if the tokens were read from the last to the first."""
        if self.activation is None or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self._activated(tokens, grids, rotated)
        # of what SiLU is given nothing is kept: the backward convolves once more
        return checkpoint(self._activated, tokens, grids, rotated, use_reentrant=False, preserve_rng_state=False)

    def _activated(self, tokens: Tensor, grids: Grids, rotated: bool) -> Tensor:
        weight = self.weight.flip(2, 3) if rotated else self.weight
        sizes, tokens = grids.sizes, tokens.contiguous()
        if any(size != sizes[0] for size in sizes):
            source, place, size = _canvas(sizes, self.kernel_size[0] // 2, tokens.device)
            ground = torch.cat([tokens, tokens.new_zeros(1, 1, tokens.shape[2])], 1)  # its last row is what lies between the images
            out = self._convolved(ground.index_select(1, source), size, weight).index_select(1, place)
        else:
            out = self._convolved(tokens.view(-1, sizes[0][0] * sizes[0][1], tokens.shape[2]), sizes[0], weight).view(tokens.shape)
        return F.silu(out, inplace=not out.requires_grad) if self.activation else out

    def _convolved(self, tokens: Tensor, size: tuple[int, int], weight: Tensor) -> Tensor:
        """[N, rows · columns, C] → the same; what lies in memory is the layout that convolutions call channels last."""
        image = tokens.unflatten(1, size).permute(0, 3, 1, 2)
        return self._conv_forward(image, weight, self.bias).permute(0, 2, 3, 1).flatten(1, 2)


@kept(64)
def _canvas(sizes: tuple[tuple[int, int], ...], gap: int, device: torch.device) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Images below each other, ``gap`` empty rows between them: the token at every place of the canvas (their number where there is
    none), the place of every token, and the canvas' size."""
    width = max(columns for _, columns in sizes)
    places, top = [], 0
    for rows, columns in sizes:
        places.append(((torch.arange(rows) + top)[:, None] * width + torch.arange(columns)).flatten())
        top += rows + gap
    place, height = torch.cat(places), top - gap
    source = torch.full((height * width,), len(place)).index_copy_(0, place, torch.arange(len(place)))
    return source.to(device), place.to(device), (height, width)
