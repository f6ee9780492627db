"""Recurrent networks along the columns and the rows of a map of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.layers.linear import Linear
from visionrnn.layers.recurrent import Recurrent
from visionrnn.serialization.constants import kept
from visionrnn.serialization.grids import Grids, reorder
from visionrnn.serialization.traversal2d import Path

UNIONS = {"cat": ("rnn_v", "rnn_h"), "add": ("rnn_v", "rnn_h"), "vertical": ("rnn_v",), "horizontal": ("rnn_h",), "flat": ("rnn",)}
"""How scans are joined → which there are: down the columns (rnn_v), along the rows (rnn_h), along all tokens row by row (rnn)."""


class BidirectionalRNN2D(nn.Module):
    """Scans of a map [B, H, W, C] along its columns and along its rows, joined and mapped back to C channels (Tatsunami & Taki 2022).

    ``cell``: "lstm", "gru" or "rnn" (tanh), torch's, of ``hidden_size`` units, in ``num_layers`` layers, both directions unless
    ``bidirectional`` is False. ``union``: "cat" (columns' features, then rows'), "add", only one of the two ("vertical", "horizontal"),
    or "flat": one scan over all tokens, row by row. Without ``with_fc`` there is no map after it, and the joined features must have the
    input's width. Raises ValueError where they have not, and for unknown names.

    Maps of different sizes: packed tokens [1, T, C] with their ``grids``; all columns of all maps are one pack of sequences, all rows
    another.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = True,
        union: str = "cat",
        with_fc: bool = True,
        cell: str = "lstm",
    ):
        super().__init__()
        if union not in UNIONS:
            raise ValueError(f"union={union!r}; expected one of {sorted(UNIONS)}")
        self.union = union
        self.output_size = hidden_size * (2 if bidirectional else 1)
        width = self.output_size * (2 if union == "cat" else 1)
        if not with_fc and width != input_size:
            raise ValueError(f"with_fc=False: the joined features have {width} channels and the input {input_size}; they must be as many")
        self.fc = Linear(width, input_size) if with_fc else None
        for name in UNIONS[union]:
            self.add_module(name, Recurrent(input_size, hidden_size, num_layers, bias, bidirectional, cell))

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        found = [self._scan(x, name) if grids is None else self._packed_scan(x, name, grids) for name in UNIONS[self.union]]
        if self.union == "add":
            found = [[down + along for down, along in zip(*found, strict=True)]]
        joined = torch.cat([value for values in found for value in values], -1)  # the only copy: scans return views
        return joined if self.fc is None else self.fc(joined)

    def _scan(self, x: Tensor, name: str) -> list[Tensor]:
        """[B, H, W, D] for each direction."""
        scan = self.get_submodule(name)
        if name == "rnn_v":
            return [value.transpose(1, 2) for value in scan(x.transpose(1, 2))]
        if name == "rnn_h":
            return scan(x)
        return [value.view(*x.shape[:3], -1) for value in scan(x.flatten(1, 2).unsqueeze(1))]

    def _packed_scan(self, x: Tensor, name: str, grids: Grids) -> list[Tensor]:
        """[1, T, D] for each direction."""
        bounds = _lines(grids.sizes, name, x.device)
        order = grids.order(Path("column"), x.device) if name == "rnn_v" else None
        if order is not None:
            x = reorder(x, *order)
        found = [value[0] for value in self.get_submodule(name)(x.unsqueeze(0), *bounds)]
        return found if order is None else [reorder(value, *order[::-1]) for value in found]


@kept(256)
def _lines(sizes: tuple[tuple[int, int], ...], name: str, device: torch.device) -> tuple[Tensor, int]:
    """(cu_seqlens, max_seqlen) of all columns, rows or maps, one map after the other."""
    if name == "rnn_v":
        lengths = [height for height, width in sizes for _ in range(width)]
    elif name == "rnn_h":
        lengths = [width for height, width in sizes for _ in range(height)]
    else:
        lengths = [height * width for height, width in sizes]
    return torch.tensor([0, *lengths]).cumsum(0).to(device), max(lengths)
