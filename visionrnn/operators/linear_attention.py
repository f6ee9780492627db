"""What operators with queries, keys and values per head share; registers nothing."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import HeadNorm, head_width
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State


class LinearAttention(Operator):
    """q, k, v = W x, with ``d_conv`` each through a short causal convolution and SiLU; o = ``recur``(q, k, v); W_out (norm(o) ⊙ gate(x)).

    ``key`` and ``value`` are the widths of all heads together, ``steps`` the number of keys and values per token, ``center`` makes the
    norm of each head a layer norm. Without ``gate`` the normalised output is projected as it is; a subclass may replace ``self.gate_proj``.
    Starting values are nn.Linear's. State: one window per convolution, and what ``recur`` returns.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        key: int | None = None,
        value: int | None = None,
        *,
        d_conv: int = 0,
        gate: bool = True,
        center: bool = False,
        steps: int = 1,
        backend: str = "auto",
    ):
        super().__init__()
        head_width(dim, num_heads)
        key, value = key or dim, value or dim
        self.num_heads, self.steps, self.backend = num_heads, steps, backend
        self.key_width, self.value_width = head_width(key, num_heads, "key width"), head_width(value, num_heads, "value width")
        widths = {"q": key, "k": steps * key, "v": steps * value}
        self.q_proj, self.k_proj, self.v_proj = (Linear(dim, width, bias=False) for width in widths.values())
        conv: dict[str, Any] = {"bias": False, "activation": "silu", "backend": backend}
        convs = {name: CausalConv(width, d_conv, **conv) for name, width in widths.items()} if d_conv else {}
        self.convs = nn.ModuleDict(convs)
        self.gate_proj: nn.Module | None = Linear(dim, value, bias=False) if gate else None
        self.norm = HeadNorm(num_heads, self.value_width, center)
        self.out_proj = Linear(value, dim, bias=False)

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        """x [B, T, C], q [B, T, H, K], k and v [B, T · steps, H, K or V] → o [B, T, H, V], state. ``how`` goes to the kernel."""
        raise NotImplementedError(f"{type(self).__name__} has no recur")

    def activate(self, gate: Tensor) -> Tensor:
        """The output gate's non-linearity."""
        return F.silu(gate)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state, after = state or {}, {}
        how: dict[str, Any] = dict(return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend)
        heads: list[Tensor] = []
        for name, projection in (("q", self.q_proj), ("k", self.k_proj), ("v", self.v_proj)):
            value = projection(x)
            if name in self.convs:
                value, after[f"conv_{name}"] = self.convs[name](value, state.get(f"conv_{name}"), cu_seqlens)
            steps = 1 if name == "q" else self.steps
            heads.append(value.unflatten(-1, (steps, self.num_heads, -1)).flatten(1, 2))  # [B, T · steps, H, K or V]
        q, k, v = heads
        o, rest = self.recur(x, q, k, v, state, how)
        y = self.norm(o).flatten(2)
        if self.gate_proj is not None:
            y = y * self.activate(self.gate_proj(x))
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {**after, **rest}


def shrink(module: nn.Module) -> None:
    """Starting values of RetNet (Sun et al. 2023) and GLA: every projection Xavier-uniform, scaled down by 2^-2.5."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
