"""Mixture of memories (Du et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from visionrnn.kernels.packing import sequence_of
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


@OPERATORS.register("mom")
class MoM(Operator):
    """Any causal operator with several memories: each token writes to and reads from those that a router picks, and one that all share.

        p_t = softmax(W_r x_t) ,   y_t = Σ_{m among the top_k of p_t} (p_{t,m} / Σ p) mixer_m(x)_t + mixer_shared(x)_t

    where mixer_m sees only the tokens sent to memory m. Source: Du et al. 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories",
    section 3, with one set of weights for all memories and the outputs mixed rather than the states; the router's balancing loss is left
    to the training. ``mixer`` is the operator's config. Tokens are sorted by memory and run as one packed call. With ``top_k`` 1 the
    weight is p itself, so that the router can learn. State: the mixer's, [B, memories (+ 1), ...].
    """

    def __init__(self, dim: int, mixer: dict | str = "gated_deltanet", num_memories: int = 4, top_k: int = 2, shared: bool = True):
        super().__init__()
        if not 1 <= top_k <= num_memories:
            raise ValueError(f"top_k: expected 1 to num_memories={num_memories}, got {top_k}")
        self.num_memories, self.top_k, self.shared = num_memories, top_k, shared
        self.router = Linear(dim, num_memories, bias=False)
        self.mixer = OPERATORS.build(mixer, dim=dim)
        if not self.mixer.causal:
            raise ValueError(f"mixer: expected a causal operator, got {mixer!r}")

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        batch, length, dim = x.shape
        memory, weight = self.route(x)
        if cu_seqlens is None:
            sequences, sequence = batch, torch.arange(batch, device=x.device).repeat_interleave(length)
        else:
            sequences, sequence = cu_seqlens.numel() - 1, sequence_of(cu_seqlens, length)
        memories = self.num_memories + self.shared
        owner = (sequence.unsqueeze(-1) * memories + memory.flatten(0, 1)).flatten()  # of every copy of a token, in order of time
        owner, order = owner.sort(stable=True)
        bounds = torch.searchsorted(owner, torch.arange(sequences * memories + 1, device=x.device))
        if state is not None:
            state = {name: value.flatten(0, 1) for name, value in state.items()}
        copies = x.flatten(0, 1).index_select(0, order // memory.shape[-1])
        y, state = self.mixer.mix(copies.unsqueeze(0), state, bounds)
        y = torch.empty_like(y[0]).index_copy(0, order, y[0]).view(batch, length, memory.shape[-1], dim)  # [B, T, copies, C]
        y = torch.einsum("btm,btmc->btc", weight.to(y.dtype), y)
        return y, {name: value.unflatten(0, (sequences, memories)) for name, value in state.items()}

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Memories of every token, [B, T, top_k (+ 1)], and their weights."""
        weight, memory = at_least_float32(self.router(x)).softmax(-1).topk(self.top_k, -1)
        if self.top_k > 1:
            weight = weight / weight.sum(-1, keepdim=True)
        if self.shared:
            weight = torch.cat([weight, torch.ones_like(weight[..., :1])], -1)
            memory = torch.cat([memory, torch.full_like(memory[..., :1], self.num_memories)], -1)
        return memory, weight
