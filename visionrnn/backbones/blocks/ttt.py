"""LION's TTT block: TTT-Linear and a gated feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn

from visionrnn.backbones.blocks.residual import Place
from visionrnn.kernels.activations import silu_gate
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.linear import Linear
from visionrnn.operators.ttt_linear import TTTLinear
from visionrnn.registry import BLOCKS

EPS = 1e-6


@BLOCKS.register("ttt")
class TTTBlock(nn.Module):
    """x ← x + ttt_linear(RMSNorm x) ;  x ← x + W_down (SiLU(W_gate n) ⊙ W_up n), n = RMSNorm x.  [B, T, C] → [B, T, C].

    One-directional. ``gate`` and ``mini_batch_size`` are options of the operator. ``drop_path`` drops the first branch only, as in the
    authors' code. Source: LION (Liu et al. 2024), after TTT-Linear (Sun et al. 2024).
    """

    def __init__(
        self,
        dim: int,
        place: Place | None = None,
        drop_path: float = 0.0,
        num_heads: int = 4,
        gate: bool = False,
        mini_batch_size: int = 16,
        backend: str = "auto",
    ):
        super().__init__()
        self.learner_norm, self.glu_norm = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.learner = TTTLinear(dim, num_heads, mini_batch_size, gate=gate, backend=backend)
        self.glu = GatedFeedForward(dim, 2 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        x = x + self.drop_path(self.learner(self.learner_norm(x), cu_seqlens, max_seqlen), cu_seqlens)
        return x + self.glu(self.glu_norm(x))


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): W_down (SiLU(W_gate x) ⊙ W_up x), without biases.  [..., C] → [..., C]."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_proj, self.up_proj = Linear(dim, hidden, bias=False), Linear(dim, hidden, bias=False)
        self.down_proj = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu_gate(self.up_proj(x), self.gate_proj(x)))
