"""xLSTM's mLSTM layer (Beck et al. 2024), in the form of Vision-LSTM (Alkin et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.kernels import mlstm
from visionrnn.kernels.activations import silu_gate
from visionrnn.kernels.dispatch import choose, on_triton
from visionrnn.kernels.packing import boundaries
from visionrnn.kernels.recurrence import MAX_WIDTH, without_autocast
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import HeadNorm, at_least_float32, head_width
from visionrnn.layers.linear import Linear, linear
from visionrnn.layers.norm import GroupedNorm
from visionrnn.operators import mlstm_fused
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS
from visionrnn.serialization.grids import reorder

DENSE = 256  # inner width up to which whole matrices are faster than blocks of them
NAMES = {"exp": ("C", "n", "m"), "sigmoid": ("C", "n")}  # of the states


@OPERATORS.register("mlstm")
class MLSTM(Operator):
    """Matrix memory with exponential input gates and a normaliser.

        [u; z] = W_up x ,   c = SiLU(conv(u)) ,   q, k from c and v from u by small blocks ,   i, f = W [q; k; v] + b
        h = mlstm(q, k, v, i, f)   (equations in the kernel) ;   W_down ((norm(h) + skip ⊙ c) ⊙ SiLU(z))

    Source: Beck et al. 2024, "xLSTM", section 2.3 and the block of its appendix; sizes and starting values as Vision-LSTM's: gate weights
    0, forget bias from 3 to 6 over the heads, input bias N(0, 0.1²), other weights N(0, 2 / (5 dim)), W_down's too, which there shrinks
    with depth. ``gating`` "sigmoid" is the variant of Beck et al. 2025. Options: ``expand`` inner width in units of dim,
    ``d_conv`` taps, ``qkv_block`` width of the blocks; ``bias`` gives all projections, the blocks and the norm one; ``offset_norm``
    stores the norm's gain flat and as its difference from one; ``reverse`` runs from the last step to the first.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        expand: int = 2,
        d_conv: int = 4,
        qkv_block: int = 4,
        gating: str = "exp",
        bias: bool = False,
        offset_norm: bool = False,
        reverse: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        head_width(dim, num_heads)
        if gating not in NAMES:
            raise ValueError(f"gating={gating!r}; expected one of {sorted(NAMES)}")
        inner = expand * dim
        if inner % qkv_block:
            raise ValueError(f"inner width {expand} · dim={dim} is not a multiple of qkv_block={qkv_block}")
        self.num_heads, self.gating, self.reverse, self.backend = num_heads, gating, reverse, backend
        self.causal = not reverse
        self.up_proj = Linear(dim, 2 * inner, bias=bias)
        self.conv1d = CausalConv(inner, d_conv, reverse=reverse, activation="silu", backend=backend)
        self.qkv_weight = nn.Parameter(torch.empty(3, inner // qkv_block, qkv_block, qkv_block))
        self.qkv_bias = nn.Parameter(torch.zeros(3, inner)) if bias else None
        self.gates = Linear(3 * inner, 2 * num_heads)
        self.norm = (
            GroupedNorm(num_heads, inner, bias, offset=True)
            if offset_norm
            else HeadNorm(num_heads, inner // num_heads, center=True, bias=bias)
        )
        self.skip = nn.Parameter(torch.ones(inner))
        self.down_proj = Linear(inner, dim, bias=bias)
        for weight in (self.up_proj.weight, self.qkv_weight, self.down_proj.weight):
            nn.init.normal_(weight, std=math.sqrt(2 / (5 * dim)))
        for projection in (self.up_proj, self.down_proj) if bias else ():
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.copy_(torch.cat([0.1 * torch.randn(num_heads), torch.linspace(3, 6, num_heads)]))

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        windows: list[Tensor] = []

        def convolve(u: Tensor) -> Tensor:
            c, window = self.conv1d(u, state.get("conv") if state else None, cu_seqlens)
            windows.append(window)
            return c

        y, memory = self.scan(x, convolve, state, cu_seqlens, max_seqlen, final=True)
        return y, {"conv": windows[0], **memory}

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        return self.scan(x, lambda u: self.conv1d(u, None, cu_seqlens)[0], None, cu_seqlens, max_seqlen)[0]

    def scans_rows(self, x: Tensor) -> bool:
        fits = len(self.skip) // self.num_heads <= MAX_WIDTH
        functions = ("causal_conv", "causal_conv"), ("gated_linear", "mlstm")
        return fits and on_triton(self.backend, x.dtype, x.device.type, *functions)

    def through(self, x: Tensor, index: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None) -> Tensor:
        return self.scan(x, lambda u: self.conv1d(u, None, cu_seqlens, index)[0], None, cu_seqlens, max_seqlen, (index, index))[0]

    def scan(
        self,
        x: Tensor,
        convolve: Callable[[Tensor], Tensor],
        state: State | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        order: tuple[Tensor, Tensor] | None = None,
        reverse: bool | None = None,
        final: bool = False,
    ) -> tuple[Tensor, State]:
        """The layer with any convolution: ``convolve`` maps u [B, T, D] to c, SiLU included. It runs again in the backward, and must give
        the same. Returns y, and with ``final`` the memory's states, else no states.

        ``order`` (order, place), each [T]: the memory alone reads the tokens in that order; all else stays in the order of x.
        ``reverse``: the memory alone runs from the last step to the first; None is the layer's own direction.
        """
        weights, biases = self.up_proj.weight.chunk(2), (None, None) if self.up_proj.bias is None else self.up_proj.bias.chunk(2)
        u, z = (linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        c, names, reverse = convolve(u), NAMES[self.gating], self.reverse if reverse is None else reverse
        past = tuple(state[name] for name in names) if state else None
        if self._fuses(u, c, z):
            y, memory = self._fused(convolve, u, c, z, past, cu_seqlens, order, reverse, final)
        else:
            h, memory = self._remember(x, u, c, past, order, reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen)
            h = self.norm(h) if isinstance(self.norm, GroupedNorm) else self.norm(h.unflatten(-1, (self.num_heads, -1))).flatten(2)
            y = self.down_proj(silu_gate(torch.addcmul(h, self.skip, c), z).to(self.down_proj.weight.dtype))
        return y, dict(zip(names, memory, strict=True)) if final else {}

    def _fuses(self, *given: Tensor) -> bool:
        """Whether the inside of the layer can run as one op."""
        first, size = given[0], self.qkv_weight.shape[-1]
        return (
            size == mlstm_fused.BLOCK
            and first.shape[-1] // self.num_heads % size == 0
            and all(value.dtype == torch.float32 for value in (*given, self.qkv_weight))
            and choose("gated_linear", "gated_linear_attention", self.backend, torch.float32, first.device.type) == "native"
            and not torch.is_autocast_enabled(first.device.type)
        )

    def _fused(
        self, convolve: Callable[[Tensor], Tensor], u: Tensor, c: Tensor, z: Tensor, past: tuple[Tensor, ...] | None,
        cu_seqlens: Tensor | None, order: tuple[Tensor, Tensor] | None, reverse: bool, final: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        batch, length, inner = u.shape
        number = batch if cu_seqlens is None else cu_seqlens.numel() - 1
        width, exponential = inner // self.num_heads, self.gating == "exp"
        shapes = {"C": (number, self.num_heads, width, width), "n": (number, self.num_heads, width), "m": (number, self.num_heads)}
        for name, value in zip(NAMES[self.gating], past or (), strict=past is not None):
            if tuple(value.shape) != shapes[name]:
                raise ValueError(f"state {name}: expected shape {list(shapes[name])}, got {list(value.shape)}")
        states = (None, None, None) if past is None else (*past, *(None,) * (3 - len(past)))
        starts = torch.arange(number + 1, device=u.device) * length if cu_seqlens is None else boundaries(cu_seqlens, u)
        gain = self.norm.weight + 1 if isinstance(self.norm, GroupedNorm) and self.norm.offset else self.norm.weight
        parts = (
            self.qkv_weight, self.qkv_bias, self.gates.weight, self.gates.bias, gain.flatten(),
            None if self.norm.bias is None else self.norm.bias.flatten(), self.skip, self.down_proj.weight, self.down_proj.bias,
        )  # fmt: skip
        keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (u, c, z, *parts, *states))
        y, *memory, _, _ = mlstm_fused.mix(
            convolve, u, c, z, *parts, None if order is None else order[0], *states, starts, self.norm.eps, exponential, reverse, keep,
            final,
        )  # fmt: skip
        return y, tuple(memory[: len(NAMES[self.gating])])

    def _remember(
        self, x: Tensor, u: Tensor, c: Tensor, past: tuple[Tensor, ...] | None, order: tuple[Tensor, Tensor] | None, reverse: bool,
        **packing: Any,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        """What the memory gives, [B, T, D], and its states; op by op."""
        values = self._from_input(x, c) if u.shape[-1] <= DENSE else self._from_blocks(u, c)
        index = order[0] if order is not None and len(x) == 1 and self.scans_rows(x) else None
        order = order if index is None else None
        q, k, v, gates = values if order is None else (reorder(value, *order) for value in values)
        input_gate, forget_gate = at_least_float32(gates).chunk(2, -1)
        q, k, v = (value.unflatten(-1, (self.num_heads, -1)) for value in (q, k, v))
        h, memory = mlstm(
            q, k, v, input_gate, forget_gate, past, gating=self.gating, return_final_state=True, reverse=reverse, backend=self.backend,
            index=index, **packing,
        )  # fmt: skip
        return h.flatten(2) if order is None else reorder(h.flatten(2), order[1], order[0]), memory

    def _from_blocks(self, u: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """q, k, v [B, T, D] and gates [B, T, 2H], each block of channels through a matrix of its own."""
        blocks = self.qkv_weight.shape[1:3]
        sources = (source.unflatten(-1, blocks).to(self.qkv_weight.dtype) for source in (c, c, u))
        qkv = [torch.einsum("btni,noi->btno", source, w).flatten(2) for source, w in zip(sources, self.qkv_weight, strict=True)]
        if self.qkv_bias is not None:
            qkv = [value + bias for value, bias in zip(qkv, self.qkv_bias, strict=True)]
        return *qkv, self.gates(torch.cat(qkv, -1))

    def _from_input(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """The same by whole matrices, faster while they are small: blocks and gates put together, v and its share of the gates from x."""
        with without_autocast(x.device.type):
            number = self.qkv_weight.shape[1]
            diagonal = torch.eye(number, dtype=self.qkv_weight.dtype, device=self.qkv_weight.device)[:, None, :, None]
            q, k, v = (self.qkv_weight.unsqueeze(-2) * diagonal).flatten(3, 4).flatten(1, 2)  # [D, D] each
            up_bias = self.up_proj.bias
            v_bias = None if up_bias is None else v @ up_bias.chunk(2)[0]
            v = v @ self.up_proj.weight.chunk(2)[0]  # [D, C]
            gate_q, gate_k, gate_v = self.gates.weight.chunk(3, 1)
            gate_c, gate_x, gate_bias = gate_q @ q + gate_k @ k, gate_v @ v, self.gates.bias
            q_bias = k_bias = None
            if self.qkv_bias is not None:
                q_bias, k_bias = self.qkv_bias[0], self.qkv_bias[1]
                v_bias = self.qkv_bias[2] + v_bias
                gate_bias = gate_bias + gate_q @ q_bias + gate_k @ k_bias + gate_v @ v_bias
        gates = linear(c, gate_c) + linear(x, gate_x, gate_bias)
        return linear(c, q, q_bias), linear(c, k, k_bias), linear(x, v, v_bias), gates
