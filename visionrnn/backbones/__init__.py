"""Backbones. 3D: voxels → voxels."""

from visionrnn.backbones.lion import LION

__all__ = ["LION"]
