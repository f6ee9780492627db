"""Coordinates → orders → groups."""

from visionrnn.serialization import curves  # noqa: F401  registers its serializers
from visionrnn.serialization.groups import Groups, make_groups
from visionrnn.serialization.merge import Merged, merge_coords
from visionrnn.serialization.plan import Plan, Traversal
from visionrnn.serialization.route import Route, take
from visionrnn.serialization.voxels import Voxels
from visionrnn.serialization.window3d import window_keys

__all__ = ["Groups", "Merged", "Plan", "Route", "Traversal", "Voxels", "make_groups", "merge_coords", "take", "window_keys"]
