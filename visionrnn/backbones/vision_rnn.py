"""VisionRNN: image classifiers of one shape, with any registered operator along any traversal of the patches."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from visionrnn.backbones.grid_block import EPS, GridBlock
from visionrnn.backbones.patch_sequence import PatchSequence
from visionrnn.layers.patch_embed import PatchEmbed, Size
from visionrnn.registry import BACKBONES, OPERATORS
from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.traversal2d import parse_traversal

SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(dim=192, depth=12),
    "small": dict(dim=384, depth=12),
    "base": dict(dim=768, depth=12),
}
"""Width and depth, as ViT's of the same names: about 6, 23 and 88 million parameters."""

HEADS = {"tiny": 4, "small": 8, "base": 16}
"""Of operators that have heads: 48 channels each. Powers of two, so that narrower models can be made with the same numbers."""

MLP_RATIOS = {"mamba": 3.0, "mlstm": 3.0, "retnet": 2.0, "rwkv6": 3.0}
"""Where the operator has more parameters than attention's 4 dim²: feed-forward layers give them back. The others have 4."""


def sized(operator: str, size: str) -> dict[str, Any]:
    """Keyword arguments of :class:`VisionRNN` for an operator at "tiny", "small" or "base". Raises KeyError for another size."""
    if size not in SIZES:
        raise KeyError(f"size={size!r}; expected one of {sorted(SIZES)}")
    heads = {"num_heads": HEADS[size]} if "num_heads" in inspect.signature(OPERATORS.get(operator)).parameters else {}
    return {**SIZES[size], "operator": {"type": operator, **heads}, "mlp_ratio": MLP_RATIOS.get(operator, 4.0)}


@BACKBONES.register("vision_rnn")
class VisionRNN(PatchSequence):
    """Images [B, in_chans, H, W], or a list of images [in_chans, H, W] of different sizes, which are run as one pack → class scores.

    Patches with learned positions pass ``depth`` blocks, x ← x + mixer(LN x), x ← x + mlp(LN x). ``operator``: name or config of any
    registered operator, e.g. ``dict(type="mamba", d_state=8)``. ``traversal``: block i scans along step i of it, see
    ``parse_traversal``; merged paths share the weights and are averaged. ``dynamic_img_size``: images of any size, positions re-sampled;
    without it only ``img_size``. Raises KeyError, TypeError or ValueError for an unknown operator, option or path, with the choices.
    """

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        dim: int = 192,
        depth: int = 12,
        operator: Mapping | str = "mamba",
        traversal: str | Sequence[str | Sequence[str]] = "alternate",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = False,
    ):
        steps = parse_traversal(traversal)
        if depth < 1:
            raise ValueError(f"depth={depth}: expected at least one block")
        super().__init__(PatchEmbed(img_size, patch_size, in_chans, dim, dynamic=dynamic_img_size), num_classes, global_pool, drop_rate)
        places = [i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            GridBlock(dim, operator, GridScan(steps[i % len(steps)]), mlp_ratio, drop_path_rate * place, place)
            for i, place in enumerate(places)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.finish()
