"""The residual block of the operator-generic image backbones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

import visionrnn.operators  # noqa: F401  registers the operators
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.mlp import Mlp
from visionrnn.registry import OPERATORS
from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import Path

EPS = 1e-6


class GridBlock(nn.Module):
    """x ← x + drop(mixer(LN x)), the mixer along the paths of ``scan`` ;  x ← x + drop(mlp(LN x)).  Tokens [B, T, C] and grids → [B, T, C].

    ``operator``: name or config of any registered operator. ``place``: the block's place in the network, 0 for the first and 1 for the
    last, which some operators' starting values depend on. With ``mlp_ratio`` 0 the second part is absent. Raises ValueError for a
    negative one, and what :func:`with_operator` raises.
    """

    def __init__(
        self, dim: int, operator: Mapping | str, scan: GridScan, mlp_ratio: float = 4.0, drop_path: float = 0.0, place: float = 0.5
    ):
        super().__init__()
        self.scan, self.mixer = with_operator(operator, dim, scan, place)
        self.norm1, self.drop_path = nn.LayerNorm(dim, eps=EPS), DropPath(drop_path)
        hidden = int(mlp_ratio * dim)
        if hidden < 0:
            raise ValueError(f"mlp_ratio={mlp_ratio}: expected a positive number, or 0 for none")
        self.norm2 = nn.LayerNorm(dim, eps=EPS) if hidden else None
        self.mlp = Mlp(dim, hidden) if hidden else None

    def forward(self, x: Tensor, grids: Grids) -> Tensor:
        images, _ = grids.boundaries(x.device)
        x = x + self.drop_path(self.scan(self.mixer, self.norm1(x), grids), images)
        if self.mlp is None or self.norm2 is None:
            return x
        return x + self.drop_path(self.mlp(self.norm2(x)), images)

    def extra_repr(self) -> str:
        return f"paths={[str(path) for path in self.scan.step]}, window={self.scan.window}, group_size={self.scan.group_size}"


def with_operator(operator: Mapping | str, dim: int, scan: GridScan, place: float) -> tuple[GridScan, nn.Module]:
    """The operator for a block, and what is left for the scan to do.

    An operator that can run backwards itself (option ``reverse``) does so, instead of having tokens turned round for it. Raises KeyError
    for an unknown operator, TypeError for an unknown option.
    """
    config = {"type": operator} if isinstance(operator, str) else dict(operator)
    name = str(config.get("type"))
    known = inspect.signature(OPERATORS.get(name)).parameters if name in OPERATORS else {}  # an unknown one is refused below
    if "depth" in known:
        config.setdefault("depth", place)
    if "reverse" in known and "reverse" not in config and len(scan.step) == 1 and scan.step[0].reverse and scan.group_size is None:
        config["reverse"] = True
        scan = GridScan((Path(scan.step[0].name),), scan.window, scan.shift)
    return scan, OPERATORS.build(config, dim=dim)
