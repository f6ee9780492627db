"""Recurrent networks along the columns and the rows of a map of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.layers.linear import Linear

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
UNIONS = {"cat": ("rnn_v", "rnn_h"), "add": ("rnn_v", "rnn_h"), "vertical": ("rnn_v",), "horizontal": ("rnn_h",), "flat": ("rnn",)}
"""How scans are joined → which there are: down the columns (rnn_v), along the rows (rnn_h), along all tokens row by row (rnn)."""


class BidirectionalRNN2D(nn.Module):
    """Scans of a map [B, H, W, C] along its columns and along its rows, joined and mapped back to C channels (Tatsunami & Taki 2022).

    ``cell``: torch's "lstm", "gru" or "rnn" (tanh) of ``hidden_size`` units, in ``num_layers`` layers, both directions unless
    ``bidirectional`` is False. ``union``: "cat" (columns' features, then rows'), "add", only one of the two ("vertical", "horizontal"),
    or "flat": one scan over all tokens, row by row. Without ``with_fc`` there is no map after it, and the joined features must have the
    input's width. Raises ValueError where they have not, and for unknown names.
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
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r}; expected one of {sorted(CELLS)}")
        if union not in UNIONS:
            raise ValueError(f"union={union!r}; expected one of {sorted(UNIONS)}")
        self.union = union
        self.output_size = hidden_size * (2 if bidirectional else 1)
        width = self.output_size * (2 if union == "cat" else 1)
        if not with_fc and width != input_size:
            raise ValueError(f"with_fc=False: the joined features have {width} channels and the input {input_size}; they must be as many")
        self.fc = Linear(width, input_size) if with_fc else None
        for name in UNIONS[union]:
            scan = CELLS[cell](input_size, hidden_size, num_layers, bias=bias, batch_first=True, bidirectional=bidirectional)
            self.add_module(name, scan)

    def forward(self, x: Tensor) -> Tensor:
        found = [self._scan(x, name) for name in UNIONS[self.union]]
        joined = found[0] if len(found) == 1 else torch.cat(found, -1) if self.union == "cat" else found[0] + found[1]
        return joined if self.fc is None else self.fc(joined)

    def _scan(self, x: Tensor, name: str) -> Tensor:
        rnn, (batch, height, width, _) = self.get_submodule(name), x.shape
        if name == "rnn_v":
            return rnn(x.transpose(1, 2).flatten(0, 1))[0].unflatten(0, (batch, width)).transpose(1, 2)
        if name == "rnn_h":
            return rnn(x.flatten(0, 1))[0].unflatten(0, (batch, height))
        return rnn(x.flatten(1, 2))[0].unflatten(1, (height, width))
