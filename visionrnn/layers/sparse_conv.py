"""3D sparse convolution in plain PyTorch, forward and backward, on any device and with any number of threads.

Parameter names and layout are spconv 2's: ``weight`` (out, kz, ky, kx, in), ``bias`` (out), so state dicts are interchangeable with it.
For each kernel offset: gather the input rows, multiply by the offset's matrix, add to the output rows (Graham et al., 2018, "3D semantic
segmentation with submanifold sparse convolutional networks"). Sums run in a fixed order, so results are reproducible on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from visionrnn.errors import DataError
from visionrnn.layers.sparse_rulebook import Rulebook, strided_rulebook, submanifold_rulebook, sum_rows, triple
from visionrnn.layers.sparse_tensor import SparseConvTensor

__all__ = [
    "Rulebook",
    "SparseConv3d",
    "SparseConvTensor",
    "SparseModule",
    "SparseSequential",
    "SubMConv3d",
    "sparse_convolution",
    "strided_rulebook",
    "submanifold_rulebook",
]


class _SparseConvolution(torch.autograd.Function):
    """features [N, C], weight [D, K, C], bias [D] or None → [M, D]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, rulebook: Rulebook) -> Tensor:
        ctx.rulebook = rulebook
        ctx.save_for_backward(features, weight)
        out = features.new_zeros(len(rulebook.coords), len(weight)) if not rulebook.chunks else None
        for chunk in rulebook.chunks:
            gathered = features.index_select(0, chunk.inputs)  # [P, C]
            products = features.new_empty(len(gathered), len(weight))
            for offset, start, stop in chunk.spans:
                torch.mm(gathered[start:stop], weight[:, offset].t(), out=products[start:stop])
            out = _accumulate(out, sum_rows(products, chunk.to_outputs))
        assert out is not None
        if rulebook.identity is not None:
            out.addmm_(features, weight[:, rulebook.identity].t())
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        rulebook: Rulebook = ctx.rulebook
        need_features, need_weight, need_bias, _ = ctx.needs_input_grad
        grad = grad.contiguous()
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
                    torch.mm(rows[start:stop], weight[:, offset], out=products[start:stop])
                grad_features = _accumulate(grad_features, sum_rows(products, chunk.to_inputs))
        if rulebook.identity is not None:
            if grad_features is not None:
                grad_features.addmm_(grad, weight[:, rulebook.identity])
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


class SparseModule(nn.Module):
    """A module that takes and returns a ``SparseConvTensor``; in a ``SparseSequential`` all others get the features only."""

    _version = 2  # the version mmdet3d gives modules whose weights have spconv 2's layout


class _SparseConv(SparseModule):
    """What the convolutions share: parameters, and the rulebook's place in the tensor's cache."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
    ):
        super().__init__()
        if groups != 1:
            raise ValueError(f"groups={groups}; sparse convolution supports groups=1 only")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = triple(kernel_size, "kernel_size", 1)
        self.stride = triple(stride, "stride", 1)
        self.padding = triple(padding, "padding", 0)
        self.dilation = triple(dilation, "dilation", 1)
        self.indice_key = indice_key
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/sqrt(fan in), as torch's dense convolutions and spconv."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def rulebook(self, x: SparseConvTensor) -> Rulebook:
        """The rulebook for ``x``'s voxels, from its cache or built and put there.

        Raises ValueError when ``indice_key`` belongs to other voxels or other settings.
        """
        settings = self._settings(tuple(x.spatial_shape))
        key = ("rulebook", self.indice_key if self.indice_key is not None else settings)
        known = x.cache.get(key)
        if known is not None:
            same_coords = known.input_coords is x.indices or (
                known.input_coords.shape == x.indices.shape and torch.equal(known.input_coords, x.indices)
            )
            if same_coords and known.settings == settings:
                return known
            if self.indice_key is not None:
                what = f"settings {known.settings}, here {settings}" if known.settings != settings else "other voxels"
                raise ValueError(
                    f"indice_key={self.indice_key!r} was used before in this tensor's cache with {what}; give this layer another indice_key"
                )
        x.cache[key] = self._build_rulebook(x)
        return x.cache[key]

    def _settings(self, shape: tuple[int, ...]) -> tuple:
        raise NotImplementedError

    def _build_rulebook(self, x: SparseConvTensor) -> Rulebook:
        raise NotImplementedError

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """[N, in_channels] at ``x``'s voxels → [M, out_channels] at the output's, with ``x``'s cache."""
        if x.features.shape[1] != self.in_channels:
            raise DataError(
                f"sparse features have {x.features.shape[1]} channels; this {type(self).__name__} expects in_channels={self.in_channels}"
            )
        rulebook = self.rulebook(x)
        features = sparse_convolution(x.features, self.weight, self.bias, rulebook)
        return type(x)(features, rulebook.coords, rulebook.spatial_shape, x.batch_size, x.cache)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, bias={self.bias is not None}, indice_key={self.indice_key!r}"
        )


class SubMConv3d(_SparseConv):
    """Submanifold convolution: outputs at the input voxels only, the kernel centred on each.

    Kernel sizes are odd, stride is 1; ``padding`` is accepted and has no effect, as in spconv. Layers with one ``indice_key`` share
    the rulebook.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.stride != (1, 1, 1):
            raise ValueError(f"stride={self.stride}; a submanifold convolution keeps its voxels, use SparseConv3d to stride")
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"kernel_size={self.kernel_size}; a submanifold convolution needs odd sizes, so that the kernel has a centre")

    def _settings(self, shape: tuple[int, ...]) -> tuple:
        return "submanifold", shape, self.kernel_size, self.dilation

    def _build_rulebook(self, x: SparseConvTensor) -> Rulebook:
        return submanifold_rulebook(x.indices, x.spatial_shape, self.kernel_size, self.dilation, x.batch_size)


class SparseConv3d(_SparseConv):
    """Sparse convolution: an output voxel wherever the kernel covers an input voxel, in ascending (batch, z, y, x) order.

    ``stride``, ``padding`` and ``dilation`` as ``torch.nn.Conv3d``; so is the output grid's size.
    """

    def _settings(self, shape: tuple[int, ...]) -> tuple:
        return "strided", shape, self.kernel_size, self.stride, self.padding, self.dilation

    def _build_rulebook(self, x: SparseConvTensor) -> Rulebook:
        return strided_rulebook(x.indices, x.spatial_shape, self.kernel_size, self.stride, self.padding, self.dilation, x.batch_size)


class SparseSequential(SparseModule, nn.Sequential):
    """Modules one after the other; those that are not sparse modules (norms, activations, linear layers) are applied to the features.

    Takes modules, one OrderedDict of modules, or named modules as keyword arguments. Batch norms are passed over when there are no voxels.
    """

    sparse_types: tuple[type, ...] = (SparseModule,)

    def __init__(self, *args: Any, **named: nn.Module):
        super().__init__(*args)
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        for module in self:
            if isinstance(module, self.sparse_types) or not hasattr(x, "replace_feature"):
                x = module(x)
            elif len(x.features) or not isinstance(module, nn.modules.batchnorm._NormBase):
                x = x.replace_feature(module(x.features))
        return x
