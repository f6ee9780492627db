"""torch's recurrent networks: the same parameters, starting values and results, by whatever computes them fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import available_backends, nonlinear_rnn
from visionrnn.layers.linear import linear

KERNEL_CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "elman"}  # names in kernels.nonlinear_rnn
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
LSTM_MODE = 2  # torch's number for it

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Of one layer in one direction: matrices of inputs and of states, and their biases."""


class Recurrent(nn.Module):
    """The network of torch's nn.LSTM, nn.GRU or nn.RNN (``cell``: "lstm", "gru", "rnn"), over the lines of maps.

    x [B, S, T, C], S sequences of T steps in each of B maps, however they lie in memory → a list of [B, S, T, D], one for each direction.
    With ``cu_seqlens`` and ``max_seqlen`` B and S are 1, and sequences of any lengths lie one after the other along T.

    On a CPU in float32: LSTMs by oneDNN, without the copies that torch makes before and after it; others, packed sequences and graphs
    that are traced by the kernels of this package. Everything else by torch.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, bidirectional: bool = True, cell: str = "lstm"
    ):
        super().__init__()
        if cell not in GATES:
            raise ValueError(f"cell={cell!r}; expected one of {sorted(GATES)}")
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.bidirectional, self.cell = bidirectional, cell
        rows = GATES[cell] * hidden_size
        for layer in range(num_layers):
            width = hidden_size * (1 + bidirectional) if layer else input_size
            for end in self._ends(layer):
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                for name, shape in {**shapes, **({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})}.items():
                    self.register_parameter(name + end, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.hidden_size**-0.5), self.hidden_size**-0.5)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> list[Tensor]:
        maps, sequences, steps, width = x.shape
        if cu_seqlens is not None or self._kernel_is_better(x):
            out = self._by_kernel(x.reshape(maps * sequences, steps, width), cu_seqlens, max_seqlen)
        elif self._onednn_fits(x):
            by_time = self._by_onednn(x.permute(2, 0, 1, 3).reshape(steps, maps * sequences, width).contiguous())
            return [value.view(steps, maps, sequences, -1).permute(1, 2, 0, 3) for value in by_time]
        else:
            out = self._by_torch(x.reshape(maps * sequences, steps, width))
        return [value.unflatten(0, (maps, sequences)) for value in out]

    def _kernel_is_better(self, x: Tensor) -> bool:
        """Of LSTMs torch has the faster one, but no compiler can follow it."""
        if x.device.type != "cpu":
            return False
        if torch.compiler.is_compiling():
            return True
        native = x.dtype == self.weight_hh_l0.dtype == torch.float32 and "native" in available_backends("nonlinear", "nonlinear_rnn")
        return native and self.cell != "lstm" and not torch.is_autocast_enabled("cpu")

    def _onednn_fits(self, x: Tensor) -> bool:
        return (
            self.cell == "lstm"
            and self.num_layers == 1
            and x.dtype == self.weight_hh_l0.dtype == torch.float32
            and x.device.type == "cpu"
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
            and bool(torch.backends.mkldnn.enabled)
            and not torch.is_autocast_enabled("cpu")
        )

    def _by_onednn(self, x: Tensor) -> list[Tensor]:
        """[T, N, C] → [T, N, D] for each direction: what torch.lstm calls for each, to copy the results into one tensor then."""
        state, found = x.new_zeros(x.shape[1], self.hidden_size), []
        for direction, weights in enumerate(self._weights(0)):
            given = [x.new_zeros(len(weights[0])) if value is None else value for value in weights]
            options: tuple = (direction == 1, [], LSTM_MODE, self.hidden_size, 1, self.bias, self.bidirectional, False, self.training)
            found.append(torch.ops.aten.mkldnn_rnn_layer(x, *given, state, state, *options)[0])
        return found

    def _by_torch(self, x: Tensor) -> list[Tensor]:
        """[N, T, C] → [N, T, D] for each direction."""
        weights = [value for layer in range(self.num_layers) for of_one in self._weights(layer) for value in of_one if value is not None]
        options: tuple = (weights, self.bias, self.num_layers, 0.0, self.training, self.bidirectional, True)
        state = x.new_zeros(self.num_layers * (1 + self.bidirectional), len(x), self.hidden_size)
        if self.cell == "lstm":
            y = torch.lstm(x, (state, state), *options)[0]
        else:
            y = (torch.gru if self.cell == "gru" else torch.rnn_tanh)(x, state, *options)[0]
        return list(y.split(self.hidden_size, -1))

    def _by_kernel(self, x: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None) -> list[Tensor]:
        """[N, T, C] → [N, T, D] for each direction."""
        out: list[Tensor] = []
        for layer in range(self.num_layers):
            x = torch.cat(out, -1) if out else x
            out = []
            for direction, weights in enumerate(self._weights(layer)):
                inputs, recurrent, bias = _for_kernel(self.cell, *weights)
                gates = linear(x, inputs).unflatten(-1, (-1, 1, self.hidden_size))  # [N, T, G, 1, D]
                y = nonlinear_rnn(
                    gates, recurrent.unflatten(0, (-1, 1, self.hidden_size)), None if bias is None else bias.view(-1, 1, self.hidden_size),
                    cell=KERNEL_CELLS[self.cell], reverse=direction == 1, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen,
                )  # fmt: skip
                out.append(y.flatten(2))  # type: ignore[union-attr]
        return out

    def _ends(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.bidirectional]

    def _weights(self, layer: int) -> list[Weights]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [tuple(getattr(self, name + end, None) for name in names) for end in self._ends(layer)]  # type: ignore[misc]

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, bias={self.bias}, bidirectional={self.bidirectional},"
            f" cell={self.cell!r}"
        )


def _for_kernel(cell: str, inputs: Tensor, recurrent: Tensor, bias: Tensor | None, other: Tensor | None):
    """Matrices of inputs and states and one bias, in the kernel's order of gates."""
    if cell != "gru":
        return inputs, recurrent, None if bias is None or other is None else bias + other
    # the kernel has the candidate's matrix first, and four biases, the first within what the reset gate multiplies
    size = recurrent.shape[1]
    recurrent = recurrent.roll(size, 0)
    if bias is None or other is None:
        return inputs, recurrent, None
    return inputs, recurrent, torch.cat([other[2 * size :], bias + F.pad(other[: 2 * size], (0, size))])
