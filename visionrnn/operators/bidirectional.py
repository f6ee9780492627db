"""Any causal operator, run in both directions."""

from __future__ import annotations

from torch import Tensor

from visionrnn.kernels.packing import reversal_index
from visionrnn.operators.base import Operator
from visionrnn.registry import OPERATORS


@OPERATORS.register("bidirectional")
class Bidirectional(Operator):
    """forward(x) + reverse(backward(reverse(x))), each direction with its own weights.

    ``mixer`` is the config of a causal operator, e.g. ``dict(type="mamba")``. Raises ValueError when it is not causal.
    """

    causal = False

    def __init__(self, dim: int, mixer: dict | str):
        super().__init__()
        self.ahead, self.back = (OPERATORS.build(mixer, dim=dim) for _ in range(2))
        if not self.ahead.causal:
            raise ValueError(f"mixer: expected a causal operator, got {mixer!r}")

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        if cu_seqlens is None:
            return self.ahead(x) + self.back(x.flip(1)).flip(1)
        index = reversal_index(cu_seqlens, x.shape[1])
        reverse = self.back(x[:, index], cu_seqlens, max_seqlen)[:, index]
        return self.ahead(x, cu_seqlens, max_seqlen) + reverse
