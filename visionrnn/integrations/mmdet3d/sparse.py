"""Sparse convolution for mmdet3d on any device: our layers take the place of spconv's and mmcv's in its registry and sparse encoders.

mmdet3d picks spconv (or mmcv's compiled ops) when it is imported, whatever the device; neither trains on a CPU. The classes here hold the
parameters in spconv 2's layout and choose at each call: spconv for CUDA tensors where it imports, our PyTorch layers otherwise.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from torch import Tensor

from visionrnn.layers import sparse_conv
from visionrnn.layers.sparse_conv import SparseConvTensor

_PATCHED = {
    "mmdet3d.models.layers.sparse_block": ("SparseSequential",),
    "mmdet3d.models.middle_encoders.sparse_encoder": ("SparseConvTensor", "SparseSequential"),
    "mmdet3d.models.middle_encoders.sparse_unet": ("SparseConvTensor", "SparseSequential"),
    "mmdet3d.models.backbones.minkunet_backbone": ("SparseConvTensor",),
    "mmdet3d.models.roi_heads.bbox_heads.parta2_bbox_head": ("SparseSequential",),
}


@functools.cache
def _spconv() -> Any:
    """The package spconv.pytorch, or None where spconv 2 is not installed or does not load."""
    if importlib.util.find_spec("spconv") is None:
        return None
    try:
        return importlib.import_module("spconv.pytorch")
    except ImportError:
        return None


def uses_spconv(features: Tensor) -> bool:
    """Whether spconv computes these features: only on CUDA. On a CPU, its forward errs with several threads and its backward raises."""
    return features.is_cuda and _spconv() is not None


class _Dispatch(sparse_conv._SparseConv):
    """Runs spconv's layer of the same name on our parameters where ``uses_spconv`` says so, else ours. Takes spconv's tensors as well."""

    def forward(self, x: Any) -> Any:
        foreign = not isinstance(x, SparseConvTensor)
        if not uses_spconv(x.features):
            return super().forward(SparseConvTensor(x.features, x.indices, x.spatial_shape, x.batch_size) if foreign else x)
        if foreign:
            return self._twin()(x)
        known = x.cache.setdefault("spconv", {})
        given = _spconv().SparseConvTensor(x.features, x.indices.int(), x.spatial_shape, x.batch_size, indice_dict=known)
        out = self._twin()(given)
        known.update(out.indice_dict)
        indices = x.indices if isinstance(self, SubMConv3d) else out.indices
        return type(x)(out.features, indices, out.spatial_shape, x.batch_size, x.cache)

    def _twin(self) -> Any:
        """spconv's layer with these settings and the same parameters; not a submodule, so state dicts do not see it."""
        twin = self.__dict__.get("_spconv_twin")
        if twin is None:
            options: dict[str, Any] = dict(bias=self.bias is not None, indice_key=self.indice_key)
            if not isinstance(self, SparseInverseConv3d):
                options.update(stride=self.stride, padding=self.padding, dilation=self.dilation)
            layer = getattr(_spconv(), type(self).__name__)
            twin = layer(self.in_channels, self.out_channels, self.kernel_size, **options)
            self.__dict__["_spconv_twin"] = twin
        twin._parameters.update(weight=self.weight, bias=self.bias)
        return twin.train(self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also reads weights of spconv 1 and mmcv, stored as (kz, ky, kx, in, out)."""
        stored = state_dict.get(f"{prefix}weight")
        if stored is not None and stored.ndim == 5 and stored.shape != self.weight.shape:
            turned = stored.permute(4, 0, 1, 2, 3)
            if turned.shape == self.weight.shape:
                state_dict[f"{prefix}weight"] = turned
        super()._load_from_state_dict(state_dict, prefix, *args)


class SubMConv3d(_Dispatch, sparse_conv.SubMConv3d):
    """``visionrnn.layers.sparse_conv.SubMConv3d``, computed by spconv on CUDA where it imports."""


class SparseConv3d(_Dispatch, sparse_conv.SparseConv3d):
    """``visionrnn.layers.sparse_conv.SparseConv3d``, computed by spconv on CUDA where it imports."""


class SparseInverseConv3d(_Dispatch, sparse_conv.SparseInverseConv3d):
    """``visionrnn.layers.sparse_conv.SparseInverseConv3d``, computed by spconv on CUDA where it imports."""


class SparseSequential(sparse_conv.SparseSequential):
    """``visionrnn.layers.sparse_conv.SparseSequential`` that also knows mmdet3d's sparse blocks (subclasses of spconv's or mmcv's)."""


def install() -> None:
    """Registers the convolutions above under their names and puts the containers into mmdet3d's sparse encoders and blocks.

    May be called any number of times; models built earlier keep the layers they have. Needs an importable mmdet3d (``mmcv_ops.install``).
    """
    from mmengine.registry import MODELS

    block = importlib.import_module("mmdet3d.models.layers.sparse_block")
    SparseSequential.sparse_types = (sparse_conv.SparseModule, block.SparseModule)
    for layer in (SubMConv3d, SparseConv3d, SparseInverseConv3d):
        MODELS.register_module(name=layer.__name__, module=layer, force=True)
    replacements = {"SparseConvTensor": SparseConvTensor, "SparseSequential": SparseSequential}
    for path, names in _PATCHED.items():
        module = importlib.import_module(path)
        for name in names:
            setattr(module, name, replacements[name])
