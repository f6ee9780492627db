"""Sequencer2D's names in its authors' repository and ours, which are timm's.

Stage i's change of resolution is there the last child of the stage before it, behind that stage's blocks: blocks.{i-1}.{n}.down for n
blocks. So the way back needs to know how many blocks a stage has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from visionrnn.official.rules import Rule, Table

BLOCK = re.compile(r"(?:blocks\.(\d+)|stages\.(\d+)\.blocks)\.(\d+)\.(?!down\.)")


def table(names: Iterable[str]) -> Table:
    """The rules for a state dict with these names, published or ours."""
    found = [match.groups() for name in names if (match := BLOCK.match(name))]
    depths: dict[int, int] = {}
    for theirs, ours, block in found:
        stage = int(theirs or ours)
        depths[stage] = max(depths.get(stage, 0), int(block) + 1)
    return (
        *(Rule(f"blocks.{stage}.{depth}.down.*", f"stages.{stage + 1}.downsample.down.*") for stage, depth in sorted(depths.items())),
        Rule("blocks.*.*.**", "stages.*.blocks.*.**"),
        Rule("head.*", "head.fc.*"),
        Rule("absolute_pos_embed", "pos_embed.embed"),
    )
