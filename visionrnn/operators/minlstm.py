"""minLSTM (Feng et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from visionrnn.kernels import min_lstm
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


@OPERATORS.register("minlstm")
class MinLSTM(Operator):
    """An LSTM whose gates and candidate do not read the state, so that it is a scan; its gates add up to one.

        f' = f / (f + i) ,   i' = i / (f + i) ,   h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ g(W_h x_t + b_h) ;   W_out h_t

    with f = σ(W_f x_t + b_f), i = σ(W_i x_t + b_i). Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.2 and appendix B.
    g and the options are those of ``mingru``.
    """

    def __init__(self, dim: int, expand: int = 1, positive: bool = True, backend: str = "auto"):
        super().__init__()
        self.positive, self.backend = positive, backend
        self.in_proj = Linear(dim, 3 * expand * dim)
        self.out_proj = Linear(expand * dim, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        hidden, forget_gate, input_gate = self.in_proj(x).chunk(3, -1)
        h, last = min_lstm(
            hidden, forget_gate, input_gate, (state or {}).get("h"), positive=self.positive,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return self.out_proj(h.to(self.out_proj.weight.dtype)), {"h": last}
