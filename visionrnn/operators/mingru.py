"""minGRU (Feng et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from visionrnn.kernels import min_gru
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


@OPERATORS.register("mingru")
class MinGRU(Operator):
    """A GRU whose gate and candidate do not read the state, so that it is a scan.

        z_t = σ(W_z x_t + b_z) ,   h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ g(W_h x_t + b_h) ;   W_out h_t

    Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.1 and appendix B. g(x) = x + ½ for x ≥ 0 and σ(x) elsewhere keeps h
    positive, as the paper's log-space form does; ``positive`` False makes g the identity. ``expand``: channels scanned in units of dim.
    """

    def __init__(self, dim: int, expand: int = 1, positive: bool = True, backend: str = "auto"):
        super().__init__()
        self.positive, self.backend = positive, backend
        self.in_proj = Linear(dim, 2 * expand * dim)
        self.out_proj = Linear(expand * dim, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        hidden, gate = self.in_proj(x).chunk(2, -1)
        h, last = min_gru(
            hidden, gate, (state or {}).get("h"), positive=self.positive,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return self.out_proj(h.to(self.out_proj.weight.dtype)), {"h": last}
