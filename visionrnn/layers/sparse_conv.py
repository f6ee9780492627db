"""3D sparse convolution in plain PyTorch, forward and backward, on any device and with any number of threads.

Parameter names and layout are spconv 2's: ``weight`` (out, kz, ky, kx, in), ``bias`` (out), so state dicts are interchangeable with it.
The arithmetic is in sparse_function.py, the pairs of voxels it runs over in sparse_rulebook.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.errors import DataError
from visionrnn.layers.sparse_function import sparse_convolution
from visionrnn.layers.sparse_rulebook import Rulebook, strided_rulebook, submanifold_rulebook, triple
from visionrnn.layers.sparse_tensor import SparseConvTensor

__all__ = [
    "Rulebook",
    "SparseConv3d",
    "SparseConvTensor",
    "SparseInverseConv3d",
    "SparseModule",
    "SparseSequential",
    "SubMConv3d",
    "sparse_convolution",
    "strided_rulebook",
    "submanifold_rulebook",
]


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
            if known.settings == settings and _same_coords(known.input_coords, x.indices):
                return known
            if self.indice_key is not None:
                what = f"settings {known.settings}, here {settings}" if known.settings != settings else "other voxels"
                raise ValueError(
                    f"indice_key={self.indice_key!r} was used before in this tensor's cache with {what}; give this layer another indice_key"
                )
        x.cache[key] = self._build_rulebook(x)
        return x.cache[key]

    def _settings(self, shape: tuple[int, ...]) -> tuple:
        raise NotImplementedError(f"{type(self).__name__} has no _settings")

    def _build_rulebook(self, x: SparseConvTensor) -> Rulebook:
        raise NotImplementedError(f"{type(self).__name__} has no _build_rulebook")

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


def _same_coords(known: Tensor, coords: Tensor) -> bool:
    return known is coords or (known.shape == coords.shape and torch.equal(known, coords))


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


class SparseInverseConv3d(_SparseConv):
    """The transpose of an earlier ``SparseConv3d``: back to its input voxels, in their order, with a kernel of its own.

    ``indice_key`` names that layer; the kernel sizes are equal. Raises ValueError when the tensor's cache has no such layer for its voxels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], indice_key: str | None = None, bias: bool = True
    ):
        if indice_key is None:
            raise ValueError("SparseInverseConv3d needs indice_key, the key of the SparseConv3d it inverts")
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key)

    def rulebook(self, x: SparseConvTensor) -> Rulebook:
        """The rulebook of the layer inverted, with inputs and outputs exchanged."""
        forward = x.cache.get(("rulebook", self.indice_key))
        if forward is None or forward.settings[0] != "strided":
            raise ValueError(f"indice_key={self.indice_key!r} names no SparseConv3d that was run before on this tensor or its ancestors")
        if forward.kernel_size != self.kernel_size or not _same_coords(forward.coords, x.indices):
            raise ValueError(
                f"indice_key={self.indice_key!r} belongs to a SparseConv3d with kernel_size={forward.kernel_size} and "
                f"{len(forward.coords)} output voxels; here kernel_size={self.kernel_size} and {len(x.indices)} voxels, expected the same"
            )
        return forward.inverse


class SparseSequential(SparseModule, nn.Sequential):
    """Modules one after the other; those that are not sparse modules (norms, activations, linear layers) are applied to the features.

    Takes modules, one OrderedDict of modules, or named modules as keyword arguments.
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
            else:
                x = x.replace_feature(module(x.features))
        return x
