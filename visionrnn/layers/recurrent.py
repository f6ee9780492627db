"""torch's recurrent networks, their parameters and starting values, run by whatever computes them fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import available_backends, nonlinear_rnn
from visionrnn.layers.linear import linear

LSTM_MODE = 2  # torch's number for it


class _Recurrent(nn.RNNBase):
    """Scans [B, S, T, C], S sequences of T steps in each of B maps, however they lie in memory → [B, S, T, D] for each direction.

    With ``cu_seqlens`` and ``max_seqlen`` B and S are 1 and sequences lie one after the other along T.
    """

    cell: str  # of kernels.nonlinear_rnn

    def forward(  # type: ignore[override]
        self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> list[Tensor]:
        images, sequences, steps, _ = x.shape
        if cu_seqlens is not None or self._kernel_is_better(x):
            out = self._by_kernel(x.reshape(images * sequences, steps, -1), cu_seqlens, max_seqlen)
        elif self._onednn_fits(x):
            by_time = self._by_onednn(x.permute(2, 0, 1, 3).reshape(steps, images * sequences, -1).contiguous())
            return [value.view(steps, images, sequences, -1).permute(1, 2, 0, 3) for value in by_time]
        else:
            joined = super().forward(x.reshape(images * sequences, steps, -1))[0]  # type: ignore[misc]
            out = list(joined.split(self.hidden_size, -1))
        return [value.unflatten(0, (images, sequences)) for value in out]

    def _kernel_is_better(self, x: Tensor) -> bool:
        """Of LSTMs torch has the faster one, but the compiler cannot follow it."""
        if x.device.type != "cpu" or x.numel() == 0:
            return False
        native = x.dtype == torch.float32 and "native" in available_backends("nonlinear", "nonlinear_rnn")
        return torch.compiler.is_compiling() or (native and self.cell != "lstm" and not torch.is_autocast_enabled("cpu"))

    def _onednn_fits(self, x: Tensor) -> bool:
        return (
            self.cell == "lstm"
            and self.num_layers == 1
            and x.dtype == self.weight_ih_l0.dtype == torch.float32
            and x.device.type == "cpu"
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
            and bool(torch.backends.mkldnn.enabled)
            and not torch.is_autocast_enabled("cpu")
        )

    def _by_onednn(self, x: Tensor) -> list[Tensor]:
        """What torch.lstm calls too, [T, N, C] → [T, N, D] for each direction, which it would copy into one tensor."""
        state = x.new_zeros(x.shape[1], self.hidden_size)
        found = []
        for direction, weights in enumerate(self._weights(0)):
            given = [state.new_zeros(len(weights[0])) if value is None else value for value in weights]
            found.append(
                torch.ops.aten.mkldnn_rnn_layer(
                    x, *given, state, state, direction == 1, [], LSTM_MODE, self.hidden_size, 1, self.bias, self.bidirectional, False, True
                )[0]
            )
        return found

    def _by_kernel(self, x: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None) -> list[Tensor]:
        """[N, T, C] → [N, T, D] for each direction."""
        out: list[Tensor] = []
        for layer in range(self.num_layers):
            x = torch.cat(out, -1) if out else x
            out = []
            for direction, weights in enumerate(self._weights(layer)):
                inputs, recurrent, bias = self._of_kernel(*weights)
                gates = linear(x, inputs).unflatten(-1, (-1, 1, self.hidden_size))
                y = nonlinear_rnn(
                    gates, recurrent.unflatten(0, (-1, 1, self.hidden_size)), None if bias is None else bias.view(-1, 1, self.hidden_size),
                    cell=self.cell, reverse=direction == 1, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen,
                )  # fmt: skip
                out.append(y.flatten(2))  # type: ignore[union-attr]
        return out

    def _weights(self, layer: int) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Of each direction the matrices of inputs and states, and their biases."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ends = (f"_l{layer}", f"_l{layer}_reverse")[: 1 + self.bidirectional]
        return [tuple(getattr(self, name + end, None) for name in names) for end in ends]  # type: ignore[misc]

    def _of_kernel(
        self, inputs: Tensor, recurrent: Tensor, bias: Tensor | None, other: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return inputs, recurrent, None if bias is None or other is None else bias + other


class LSTM(_Recurrent, nn.LSTM):  # type: ignore[misc]
    cell = "lstm"


class RNN(_Recurrent, nn.RNN):  # type: ignore[misc]
    cell = "elman"


class GRU(_Recurrent, nn.GRU):  # type: ignore[misc]
    cell = "gru"

    def _of_kernel(
        self, inputs: Tensor, recurrent: Tensor, bias: Tensor | None, other: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The kernel has the candidate's matrix first, and four biases: the first is added to what the reset gate multiplies."""
        size = self.hidden_size
        recurrent = recurrent.roll(size, 0)
        if bias is None or other is None:
            return inputs, recurrent, None
        gates = bias + F.pad(other[: 2 * size], (0, size))
        return inputs, recurrent, torch.cat([other[2 * size :], gates])
