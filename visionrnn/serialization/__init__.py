"""Coordinates → orders → groups."""

from visionrnn.serialization.groups import Groups, make_groups
from visionrnn.serialization.voxels import Voxels
from visionrnn.serialization.window3d import window_keys, window_orders

__all__ = ["Groups", "Voxels", "make_groups", "window_keys", "window_orders"]
