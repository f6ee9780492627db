"""Vision-LSTM's names and ours: those of the released checkpoints, and those of the authors' package made of them.

Both call the norms of the two versions differently. Ours have one meaning: ``norm`` is behind the layers, ``head_norm`` behind the
pooling. The released files have them as ``xlstm.post_blocks_norm`` and ``head.0``, the package as ``legacy_norm`` and ``norm`` in the
first version and the other way round in the second. The second version's layers come in pairs in the package; layer 2i is there
``blocks.i.rowwise_from_top_left`` and 2i + 1 ``blocks.i.rowwise_from_bot_right``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from visionrnn.official.rules import Rule, Table

PAIRS = 64
"""Pairs of layers that names are known for; the released models have 12."""

IGNORED = ("causal_mask",)
"""Buffers of older checkpoints that no model needs."""

CELL: Table = (
    Rule("learnable_skip", "skip"),
    Rule("proj_up.**", "up_proj.**"),
    Rule("proj_down.**", "down_proj.**"),
    *(Rule(f"{name}_proj.{kind}", f"qkv_{kind}", part=(i, 3), stacked=True) for kind in ("weight", "bias") for i, name in enumerate("qkv")),
    *(Rule(f"mlstm_cell.{name}gate.{kind}", f"gates.{kind}", part=(i, 2)) for kind in ("weight", "bias") for i, name in enumerate("if")),
    Rule("mlstm_cell.outnorm.**", "norm.**"),
)
RELEASED_LAYER: Table = (*CELL, Rule("conv1d.conv.**", "conv1d.**"), Rule("conv1d.**", "conv.**"))
LAYERS: dict[int, Table] = {
    1: (*CELL, Rule("conv1d.conv.**", "conv1d.**")),
    2: (*CELL, Rule("conv.conv.**", "conv1d.**")),
}
BLOCKS: dict[int, Table] = {version: (Rule("layer.**", "layer.**", layer),) for version, layer in LAYERS.items()}
PAIR: Table = (Rule("rowwise_from_top_left.**", "0.**", BLOCKS[2]), Rule("rowwise_from_bot_right.**", "1.**", BLOCKS[2]))

RELEASED: Table = (
    Rule("xlstm.blocks.*.xlstm_norm.**", "blocks.*.norm.**"),
    Rule("xlstm.blocks.*.xlstm.**", "blocks.*.layer.**", RELEASED_LAYER),
    Rule("xlstm.post_blocks_norm.**", "norm.**"),
    Rule("head.0.**", "head_norm.**"),
    Rule("head.1.**", "head.**"),
)
PACKAGE: dict[int, Table] = {
    1: (Rule("blocks.*.**", "blocks.*.**", BLOCKS[1]), Rule("legacy_norm.**", "norm.**"), Rule("norm.**", "head_norm.**")),
    2: (
        *(Rule(f"blocks.{i}.rowwise_from_top_left.**", f"blocks.{2 * i}.**", BLOCKS[2]) for i in range(PAIRS)),
        *(Rule(f"blocks.{i}.rowwise_from_bot_right.**", f"blocks.{2 * i + 1}.**", BLOCKS[2]) for i in range(PAIRS)),
        Rule("norm.**", "norm.**"),
        Rule("legacy_norm.**", "head_norm.**"),
    ),
}

SECOND = re.compile(r"rowwise_from_|(?:^|layer\.)conv\.|up_proj\.bias|proj_up\.bias|blocks\.\d+\.norm\.bias")
"""What only names of the second version hold, the package's or ours."""


def table(names: Iterable[str]) -> Table:
    """The rules for a state dict with published names of either kind; for ours, those that lead to the released names."""
    known = list(names)
    theirs = any("learnable_skip" in name for name in known) and not any(name.startswith("xlstm.") for name in known)
    return package_table(known) if theirs else RELEASED


def package_table(names: Iterable[str]) -> Table:
    """The rules for the names of the authors' package, and for ours those that lead to them: whole models, pairs, blocks and layers."""
    known = list(names)
    version = 2 if any(SECOND.search(name) for name in known) else 1
    if any(name.startswith("blocks.") for name in known):
        return PACKAGE[version]
    if any(name.startswith(("rowwise_from_", "0.")) for name in known):
        return PAIR
    return BLOCKS[version] if any(name.startswith("layer.") for name in known) else LAYERS[version]
