"""The inside of an mLSTM layer, from its convolution to its output, as one op on a CPU: between the projections nothing but the gates is
written to memory, and for the backward only its inputs and a few states are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from visionrnn.kernels.gated_linear import native_mlstm
from visionrnn.kernels.native import watch
from visionrnn.layers.linear import linear, weight_gradient

BLOCK = 4  # width of the blocks that the C++ source takes


def mix(convolve: Callable[[Tensor], Tensor], *inputs: Any) -> tuple[Tensor, ...]:
    """:func:`mlstm_mix`; c is not kept for the backward, which computes it from u by ``convolve``. A compiler decides for itself."""
    *_, keep, _ = inputs
    return _Mix.apply(convolve, *inputs) if keep and not torch.compiler.is_compiling() else mlstm_mix(*inputs)


@torch.library.custom_op("visionrnn::mlstm_mix", mutates_args=(), device_types="cpu")
def mlstm_mix(
    u: Tensor, c: Tensor, z: Tensor, blocks: Tensor, block_bias: Optional[Tensor], gate_weight: Tensor, gate_bias: Tensor,  # noqa: UP045
    gain: Tensor, shift: Optional[Tensor], skip: Tensor, down_weight: Tensor, down_bias: Optional[Tensor], order: Optional[Tensor],  # noqa: UP045
    C: Optional[Tensor], n: Optional[Tensor], m: Optional[Tensor], cu_seqlens: Tensor, norm_eps: float, exponential: bool,  # noqa: UP045
    reverse: bool, keep: bool, final: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k = blocks c, v = blocks u, gates of all three; the memory; down ((norm(h) + skip ⊙ c) ⊙ SiLU(z)).

    u, c, z: [B, T, D], rows of sequences that begin at ``cu_seqlens`` and that the memory reads in ``order`` [T]; blocks: [3, D / 4, 4, 4];
    gate_weight: [2 H, 3 D]. Returns the output [B, T, dim], final C, n, m (empty unless ``final``), and with ``keep`` what the backward
    needs: gates [B · T, 2 H] and states.
    """
    gates, around = _gates(u, c, blocks, block_bias, gate_weight, gate_bias), _around(blocks, block_bias, gain, shift, skip, z)
    sizes = _sizes(u, gate_weight)
    y, last, kept = native_mlstm.forward(
        c.contiguous(), c, u.contiguous(), gates, sizes, cu_seqlens, keep=keep, final=final,
        **_options(sizes, norm_eps, exponential, reverse, order, around, (C, n, m)),
    )  # fmt: skip
    return linear(y, down_weight, down_bias), *last, gates if keep else gates.new_empty(0), kept


@mlstm_mix.register_fake
def _(u, c, z, blocks, block_bias, gate_weight, gate_bias, gain, shift, skip, down_weight, *rest):
    cu_seqlens, _, exponential, _, keep, final = rest[-6:]
    sizes = _sizes(u, gate_weight)
    steps = u.shape[0] * u.shape[1]
    last = native_mlstm.final_states(u, cu_seqlens.shape[0] - 1, sizes, exponential, final)
    gates = u.new_empty(steps, gate_weight.shape[0]) if keep else u.new_empty(0)
    kept = u.new_empty(native_mlstm.kept_numbers(steps, sizes, keep))
    return u.new_empty(*u.shape[:2], down_weight.shape[0]), *last, gates, kept


@torch.library.custom_op("visionrnn::mlstm_mix_backward", mutates_args=(), device_types="cpu")
def mlstm_mix_backward(
    grad: Tensor, last_C: Optional[Tensor], last_n: Optional[Tensor], last_m: Optional[Tensor], u: Tensor, c: Tensor, z: Tensor,  # noqa: UP045
    blocks: Tensor, block_bias: Optional[Tensor], gate_weight: Tensor, gate_bias: Tensor, gain: Tensor, shift: Optional[Tensor],  # noqa: UP045
    skip: Tensor, down_weight: Tensor, down_bias: Optional[Tensor], order: Optional[Tensor], C: Optional[Tensor], n: Optional[Tensor],  # noqa: UP045
    m: Optional[Tensor], gates: Tensor, kept: Tensor, cu_seqlens: Tensor, norm_eps: float, exponential: bool, reverse: bool,  # noqa: UP045
) -> list[Tensor]:  # fmt: skip
    """Gradients of the inputs of :func:`mlstm_mix` from u to down_bias, empty where an input is not there, then of C, n, m."""
    c, u, z = c.contiguous(), u.contiguous(), z.contiguous()
    sizes, around = _sizes(u, gate_weight), _around(blocks, block_bias, gain, shift, skip, z)
    dc, _, du, dgates, dinitial, (dz, y, sums) = native_mlstm.backward(
        linear(grad, down_weight.t()), (last_C, last_n, last_m), c, c, u, gates, kept, sizes, cu_seqlens,
        **_options(sizes, norm_eps, exponential, reverse, order, around, (C, n, m)),
    )  # fmt: skip
    sums, rows = sums.sum(0), grad.flatten(0, 1)
    dgate_weight, dblocks, dblock_bias = _through_gates(dgates, u, c, du, dc, blocks, block_bias, gate_weight)
    dblocks = dblocks + _unturned(sums[:12], blocks.shape)
    return [
        du, dc, dz, dblocks, dblock_bias + sums[12:15], dgate_weight, dgates.sum(0),
        *(row.clone() for row in sums[15:18]),  # results of an op share no memory
        weight_gradient(rows, y.flatten(0, 1)), rows.sum(0), *dinitial, *(u.new_empty(0) for _ in range(3 - len(dinitial))),
    ]  # fmt: skip


@mlstm_mix_backward.register_fake
def _(grad, last_C, last_n, last_m, u, c, z, blocks, block_bias, gate_weight, gate_bias, gain, shift, skip, down_weight, down_bias, order,
      C, n, m, *_):  # fmt: skip
    D = u.shape[2]
    shapes = (u.shape, c.shape, z.shape, blocks.shape, (3, D), gate_weight.shape, gate_bias.shape, (D,), (D,), (D,), down_weight.shape,
              (down_weight.shape[0],), *((0,) if value is None or not value.numel() else value.shape for value in (C, n, m)))  # fmt: skip
    return [u.new_empty(shape) for shape in shapes]


def _sizes(u: Tensor, gate_weight: Tensor) -> tuple[int, int, int]:
    heads = gate_weight.shape[0] // 2
    return heads, u.shape[-1] // heads, u.shape[-1] // heads


def _options(sizes, norm_eps, exponential, reverse, order, around, states):
    initial = None if states[0] is None else states
    return dict(
        scale=sizes[1] ** -0.5,
        eps=1e-6,
        exponential=exponential,
        reverse=reverse,
        norm_eps=norm_eps,
        order=order,
        around=around,
        initial=initial,
    )


def _around(blocks: Tensor, bias: Tensor | None, gain: Tensor, shift: Tensor | None, skip: Tensor, z: Tensor) -> tuple[Tensor | None, ...]:
    turned = blocks.gather(3, _partners(blocks.device).expand(blocks.shape)).permute(0, 3, 1, 2).contiguous()  # [3, 4, D / 4, 4]
    return turned, *(None if value is None else value.contiguous() for value in (bias, gain, shift, skip, z))


def _partners(device: torch.device) -> Tensor:
    """[4, 4]: channel that output i of a block meets in turn j."""
    steps = torch.arange(BLOCK, device=device)
    return (steps[:, None] + steps) % BLOCK


def _unturned(sums: Tensor, shape: torch.Size) -> Tensor:
    """Gradients of turned weights [3 · 4, D] → of the blocks."""
    turned = sums.view(3, BLOCK, shape[1], BLOCK).permute(0, 2, 3, 1)
    steps = torch.arange(BLOCK, device=sums.device)
    return turned.gather(3, ((steps - steps[:, None]) % BLOCK).expand(shape))


def _gates(u: Tensor, c: Tensor, blocks: Tensor, block_bias: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """[B · T, 2 H] straight from c and u, without q, k, v."""
    of_c, of_u = _folded(blocks, weight)
    if block_bias is not None:
        bias = torch.addmv(bias, weight, block_bias.flatten())
    return linear(c.flatten(0, 1), of_c, bias).add_(linear(u.flatten(0, 1), of_u))


def _folded(blocks: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gate weights as they act on c and on u, [2 H, D] each."""
    folded = torch.bmm(weight.unflatten(1, (-1, BLOCK)).transpose(0, 1), blocks.flatten(0, 1))  # [3 D / 4, 2 H, 4]
    q, k, v = folded.transpose(0, 1).flatten(1).chunk(3, 1)
    return q + k, v


def _through_gates(dgates, u, c, du, dc, blocks, block_bias, weight):
    """Adds to du and dc; returns the gates' share of the gradients of their weights [2 H, 3 D], of the blocks and of their biases."""
    of_c, of_u = _folded(blocks, weight)
    torch.addmm(du.flatten(0, 1), dgates, of_u, out=du.flatten(0, 1))
    torch.addmm(dc.flatten(0, 1), dgates, of_c, out=dc.flatten(0, 1))
    given_c, given_u = dgates.t() @ c.flatten(0, 1), dgates.t() @ u.flatten(0, 1)
    folded = torch.cat([given_c, given_c, given_u], 1).unflatten(1, (-1, BLOCK)).transpose(0, 1)  # [3 D / 4, 2 H, 4]
    parts = weight.unflatten(1, (-1, BLOCK)).permute(1, 2, 0)  # [3 D / 4, 4, 2 H]
    dweight = torch.bmm(folded, blocks.flatten(0, 1).transpose(1, 2)).transpose(0, 1).flatten(1)
    dblocks, dbias = torch.bmm(parts, folded).view(blocks.shape), dgates.sum(0)
    if block_bias is not None:
        dweight.addr_(dbias, block_bias.flatten())
    return dweight, dblocks, (weight.t() @ dbias).view(3, -1)


def _setup(ctx, inputs, output):
    *saved, cu_seqlens, ctx.norm_eps, ctx.exponential, ctx.reverse, _, _ = inputs
    ctx.save_for_backward(*saved, *output[4:], cu_seqlens)
    watch(ctx, output[:4])


def _backward(ctx, grad, *last, convolve: Callable[[Tensor], Tensor] | None = None):
    (u, c, *others), (shape, dtype, device) = ctx.saved_tensors, ctx.watched[0]
    if convolve is not None:
        with torch.no_grad():
            c = convolve(u)
    saved = (u, c, *others)
    grad = torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad.contiguous()
    last = native_mlstm.states_together(last[:3], ctx.watched[1:])
    *gradients, dC, dn, dm = mlstm_mix_backward(grad, *last, *saved, ctx.norm_eps, ctx.exponential, ctx.reverse)
    gradients = [*gradients, None, dC, dn, dm]  # order has none
    return *(None if value is None else gradient for gradient, value in zip(gradients, saved[:16], strict=True)), *(None,) * 6


mlstm_mix.register_autograd(_backward, setup_context=_setup)


class _Mix(torch.autograd.Function):
    """As the op, without c among what is kept. Hooks for saved tensors would do the same, but hide the rest from those of a checkpoint."""

    @staticmethod
    def forward(ctx: Any, convolve: Callable[[Tensor], Tensor], u: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        output = mlstm_mix(u, c, *rest)
        ctx.convolve = convolve
        ctx.mark_non_differentiable(*output[4:])
        _setup(ctx, (u, None, *rest), output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_backward(ctx, *grads, convolve=ctx.convolve)
