"""Backbones. 3D: voxels → voxels."""

from visionrnn.backbones.lion import LION
from visionrnn.backbones.lion_sparse import SparseLION

__all__ = ["LION", "SparseLION"]
