"""The arithmetic of sparse convolution: features, weight and a rulebook to features, with its gradient.

For each kernel offset: gather the input rows, multiply by the offset's matrix, add to the output rows (Graham et al., 2018, "3D semantic
segmentation with submanifold sparse convolutional networks"). Sums run in a fixed order, so results are reproducible on every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from visionrnn.errors import DataError
from visionrnn.layers.linear import linear
from visionrnn.layers.sparse_rulebook import Rulebook, sum_rows


class _SparseConvolution(torch.autograd.Function):
    """features [N, C], weight [D, K, C], bias [D] or None → [M, D]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, rulebook: Rulebook) -> Tensor:
        ctx.rulebook = rulebook
        ctx.save_for_backward(features, weight)
        out = features.new_zeros(len(rulebook.coords), len(weight)) if not rulebook.chunks else None
        matrices = weight.transpose(0, 1).contiguous()  # [K, D, C]
        for chunk in rulebook.chunks:
            gathered = features.index_select(0, chunk.inputs)  # [P, C]
            products = features.new_empty(len(gathered), len(weight))
            for offset, start, stop in chunk.spans:
                products[start:stop] = linear(gathered[start:stop], matrices[offset])
            out = _accumulate(out, sum_rows(products, chunk.to_outputs))
        assert out is not None
        if rulebook.identity is not None:
            out += linear(features, matrices[rulebook.identity])
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        rulebook: Rulebook = ctx.rulebook
        need_features, need_weight, need_bias, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        matrices = weight.permute(1, 2, 0).contiguous()  # [K, C, D]
        grad_features = torch.zeros_like(features) if need_features and not rulebook.chunks else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        for chunk in rulebook.chunks if need_features or need_weight else ():
            rows = grad.index_select(0, chunk.outputs)  # [P, D]
            if grad_weight is not None:
                gathered = features.index_select(0, chunk.inputs)  # [P, C]
                for offset, start, stop in chunk.spans:
                    torch.mm(rows[start:stop].t(), gathered[start:stop], out=grad_weight[:, offset])
            if need_features:
                products = features.new_empty(len(rows), features.shape[1])
                for offset, start, stop in chunk.spans:
                    products[start:stop] = linear(rows[start:stop], matrices[offset])
                grad_features = _accumulate(grad_features, sum_rows(products, chunk.to_inputs))
        if rulebook.identity is not None:
            if grad_features is not None:
                grad_features += linear(grad, matrices[rulebook.identity])
            if grad_weight is not None:
                torch.mm(grad.t(), features, out=grad_weight[:, rulebook.identity])
        return grad_features, grad_weight, grad.sum(0) if need_bias else None, None


def _accumulate(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def sparse_convolution(features: Tensor, weight: Tensor, bias: Tensor | None, rulebook: Rulebook) -> Tensor:
    """Convolves with a rulebook: features [N, C], weight (D, kz, ky, kx, C), bias [D] or None → [M, D], rows as ``rulebook.coords``.

    Differentiable once, in float16 to float64; under autocast it runs in autocast's dtype. Raises DataError when the shapes or dtypes do
    not fit.
    """
    if weight.ndim != 5 or tuple(weight.shape[1:4]) != rulebook.kernel_size:
        raise DataError(
            f"sparse convolution weight has shape {list(weight.shape)}; expected (out, {', '.join(map(str, rulebook.kernel_size))}, in)"
        )
    if features.ndim != 2 or features.shape[1] != weight.shape[4]:
        raise DataError(
            f"sparse features have shape {list(features.shape)}; expected [N, {weight.shape[4]}], the convolution's in_channels"
        )
    if len(features) != len(rulebook.input_coords):
        raise DataError(f"sparse features have {len(features)} rows; the rulebook was built for {len(rulebook.input_coords)} voxels")
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        features, weight, bias = features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if features.dtype != weight.dtype:
        raise DataError(
            f"sparse features are {features.dtype}, the convolution's weight is {weight.dtype}; expected one dtype, convert one of them"
        )
    return _SparseConvolution.apply(features.contiguous(), weight.flatten(1, 3), bias, rulebook)
