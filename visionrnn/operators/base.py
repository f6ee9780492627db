"""What every operator is."""

from __future__ import annotations

from torch import Tensor, nn


class Operator(nn.Module):
    """Sequence mixer [B, T, C] → [B, T, C]. One-directional operators are causal in T.

    With ``cu_seqlens`` [S + 1] the S sequences lie packed along T and B is 1; ``max_seqlen`` bounds their length.
    """

    has_bidirectional = False  # True: the class takes ``bidirectional=True`` itself; False: wrap it in Bidirectional

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")
