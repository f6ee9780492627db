"""What the test-time training layers share; registers nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels.activations import sigmoid
from visionrnn.kernels.packing import sequence_of
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import at_least_float32, head_width
from visionrnn.layers.linear import Linear
from visionrnn.layers.rope import positions
from visionrnn.operators.base import Operator, State

EPS = 1e-6  # of both norms


class TTTLayer(Operator):
    """Queries, keys, values and a learning rate per step and head, into a model per head that learns while the sequence passes.

    ``model`` gives the starting values of that model by name, [H, ...] each; a subclass implements :meth:`learn`.
    State: the model as the unfinished mini-batch of each sequence began, what came in since (``pending`` [B, mini_batch_size, H, 2D + 1]:
    keys, values, rates; zeros beyond), the ``position`` in it, and the windows of the convolutions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        model: dict[str, Tensor],
        *,
        mini_batch_size: int,
        base_lr: float,
        gate: bool,
        share_qk: bool,
        d_conv: int,
        rope_theta: float,
        backend: str,
    ):
        super().__init__()
        self.num_heads, self.width = num_heads, head_width(dim, num_heads)
        self.mini_batch_size, self.base_lr, self.rope_theta, self.backend = mini_batch_size, base_lr, rope_theta, backend
        self.q_proj, self.v_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(3))
        self.k_proj = None if share_qk else Linear(dim, dim, bias=False)
        self.convs = nn.ModuleDict({name: CausalConv(dim, d_conv, backend=backend) for name in "qk"} if share_qk else {})
        self.gate_proj = Linear(dim, dim, bias=False) if gate else None
        self.lr_proj = Linear(dim, num_heads)
        nn.init.normal_(self.lr_proj.weight, std=0.02)
        nn.init.zeros_(self.lr_proj.bias)
        self.scale_offset = nn.Parameter(torch.zeros(mini_batch_size))
        self.model, self.names = nn.ParameterDict(model), tuple(model)  # the dictionary sorts its keys
        self.model_norm_weight = nn.Parameter(torch.ones(num_heads, self.width))
        self.model_norm_bias = nn.Parameter(torch.zeros(num_heads, self.width))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def learn(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, model: tuple[Tensor, ...], how: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """q, k, v [B, T, H, D], rate [B, T, H], the model [B, ...] → o [B, T, H, D], the model after. ``how`` goes to the kernel."""
        raise NotImplementedError(f"{type(self).__name__} has no learn")

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        q, k, v, rate, after = self._inputs(x, {}, cu_seqlens)
        model = self._start(len(after["position"]))
        o, _ = self.learn(q, k, v, rate, model, self._how(cu_seqlens, max_seqlen))
        return self._output(x, o)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        q, k, v, rate, after = self._inputs(x, state or {}, cu_seqlens)
        number = len(after["position"])
        if state is None:
            pending = q.new_zeros(number, self.mini_batch_size, self.num_heads, 2 * self.width + 1)
            model, position = self._start(number), torch.zeros_like(after["position"])
        else:
            model, position, pending = tuple(state[name] for name in self.names), state["position"], state["pending"]
        bounds = torch.arange(number + 1, device=x.device) * x.shape[1] if cu_seqlens is None else cu_seqlens.long()
        new = torch.cat([at_least_float32(k), at_least_float32(v), rate.unsqueeze(-1)], -1)
        o, model, pending = self._continue(q.flatten(0, 1), new.flatten(0, 1), bounds, model, pending, position)
        return self._output(x, o.unflatten(0, x.shape[:2])), {**after, **dict(zip(self.names, model, strict=True)), "pending": pending}

    def _continue(
        self, q: Tensor, new: Tensor, bounds: Tensor, model: tuple[Tensor, ...], pending: Tensor, position: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """q: [N, H, D] and new: [N, H, 2D + 1], packed; the pending steps go before the new ones, once more.

        First come the mini-batches that are now full: the model after them is the state. Then, from it, the steps left over.
        """
        size, number = self.mini_batch_size, len(position)
        held = torch.cat([at_least_float32(pending).flatten(0, 1), new])
        queries = torch.cat([held[: number * size, :, : self.width], q.to(held.dtype)])  # what the pending steps ask is dropped
        lengths = position + bounds.diff()
        full = lengths // size * size
        ends = _bounds(lengths)
        owner = sequence_of(ends, int(ends[-1]))
        step = torch.arange(len(owner), device=q.device) - ends[owner]
        before = position[owner]
        row = torch.where(step < before, owner * size + step, number * size + bounds[owner] + step - before)
        in_full = step < full[owner]
        first, rest = in_full.nonzero().squeeze(1), (~in_full).nonzero().squeeze(1)
        outputs = []
        for part, sizes in ((first, full), (rest, lengths - full)):
            k, v, rate = held[row[part]].unsqueeze(0).split([self.width, self.width, 1], -1)
            o, after = self.learn(queries[row[part]].unsqueeze(0), k, v, rate.squeeze(-1), model, self._how(_bounds(sizes), None))
            outputs.append(o.squeeze(0))
            model = after if part is first else model
        order = torch.cat([first, rest]).argsort()[step >= before]
        slots = owner[rest] * size + step[rest] - full[owner[rest]]
        left = torch.zeros_like(held[: number * size]).index_copy(0, slots, held[row[rest]])
        return torch.cat(outputs)[order], model, left.unflatten(0, (number, size))

    def _inputs(self, x: Tensor, state: State, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, State]:
        """q, k turned by their position in the mini-batch, v, all [B, T, H, D]; rate [B, T, H]; position and windows after."""
        after: State = {}
        q, v = self.q_proj(x), self.v_proj(x)
        k = q if self.k_proj is None else self.k_proj(x)
        if self.convs:
            q, after["conv_q"] = self.convs["q"](q, state.get("conv_q"), cu_seqlens)
            k, after["conv_k"] = self.convs["k"](k, state.get("conv_k"), cu_seqlens)
        q, k, v = (value.unflatten(-1, (self.num_heads, -1)) for value in (q, k, v))
        position, last = positions(x, state.get("position"), cu_seqlens)
        after["position"] = last % self.mini_batch_size
        table = turns(self.mini_batch_size, self.width, self.rope_theta, q)
        turn = table.index_select(0, (position % self.mini_batch_size).flatten()).unflatten(0, position.shape)
        q, k = rotate_pairs(q, turn), rotate_pairs(k, turn)
        rate = sigmoid(at_least_float32(self.lr_proj(x))) * (self.base_lr / self.width)
        return q, k, v, rate, after

    def _start(self, number: int) -> tuple[Tensor, ...]:
        return tuple(self.model[name].expand(number, *self.model[name].shape) for name in self.names)

    def _how(self, cu_seqlens: Tensor | None, max_seqlen: int | None) -> dict[str, Any]:
        positions = torch.arange(1, self.mini_batch_size + 1, dtype=self.scale_offset.dtype, device=self.scale_offset.device)
        return dict(
            token_scale=1 / positions + self.scale_offset,
            mini_batch_size=self.mini_batch_size,
            eps=EPS,
            return_final_state=True,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            backend=self.backend,
        )

    def _output(self, x: Tensor, o: Tensor) -> Tensor:
        y = self.norm(o.flatten(2).to(self.norm.weight.dtype))
        if self.gate_proj is not None:
            y = F.gelu(self.gate_proj(x), approximate="tanh") * y
        return self.out_proj(y.to(self.out_proj.weight.dtype))


def turns(period: int, width: int, theta: float, like: Tensor) -> Tensor:
    """[period, width / 2], complex: by how much pairs of channels turn at each position. In float64 for float64, else in float32."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequency = theta ** (-torch.arange(width // 2, device=like.device, dtype=wide) / max(width // 2, 1))
    angle = torch.arange(period, device=like.device, dtype=wide).unsqueeze(1) * frequency
    return torch.polar(torch.ones_like(angle), angle)


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Turns channels 2i and 2i + 1 of [B, T, H, D] by turn [B, T, D / 2]. An odd last channel stays."""
    pairs, last = x.split([x.shape[-1] // 2 * 2, x.shape[-1] % 2], -1)
    pairs = torch.view_as_complex(at_least_float32(pairs).unflatten(-1, (-1, 2)).contiguous()) * turn.unsqueeze(2)
    turned = torch.view_as_real(pairs).flatten(-2).to(x.dtype)
    return torch.cat([turned, last], -1) if last.shape[-1] else turned


def _bounds(lengths: Tensor) -> Tensor:
    """[S] → [S + 1]."""
    return F.pad(lengths.cumsum(0), (1, 0))
