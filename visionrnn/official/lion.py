"""LION's published names (OpenPCDet's layout) and ours: whole detectors and their parts. What values mean is told beside the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from visionrnn.official.blocks import BLOCKS
from visionrnn.official.heads import ANCHOR, BEV, CENTRE, SPARSE
from visionrnn.official.rules import Rule, Table

COUNTERS: dict[str, tuple[int, ...]] = {"global_step": (1,)}
"""Integer buffers of published detectors that no model needs: name → shape."""

LAYER = (Rule("blocks.*.**", "blocks.*.**", BLOCKS),)
MERGING = (Rule("sub_conv.0.**", "conv.**"), Rule("sub_conv.1.**", "conv_norm.**"), Rule("norm.**", "norm.**"))
POSITION = (Rule("position_embedding_head.**", "mlp.**"),)
STAGE = (
    Rule("encoder.*.**", "encoder.*.**", LAYER),
    Rule("decoder.*.**", "decoder.*.**", LAYER),
    Rule("pos_emb_list.*.**", "position.*.**", POSITION),
    Rule("downsample_list.*.**", "merging.*.**", MERGING),
    Rule("decoder_norm.**", "decoder_norm.**"),
)
BACKBONE: Table = (
    *(Rule(f"linear_{i + 1}.**", f"stages.{i}.**", STAGE) for i in range(4)),
    *(Rule(f"dow{i + 1}.**", f"merges.{i}.**", MERGING) for i in range(4)),
    Rule("linear_out.**", "out_layer.**", LAYER),
    Rule("dow_out.**", "merge_out.**", MERGING),  # this and the next: the sparse backbone of Argoverse 2 only
    *(Rule(f"linear_bev{i + 1}.**", f"bev_layers.{i}.**", LAYER) for i in range(3)),
)
ENCODER = (Rule("pfn_layers.*.linear.**", "layers.*.0.**"), Rule("pfn_layers.*.norm.**", "layers.*.1.**"))


def _detector(head: Table) -> Table:
    return (
        Rule("vfe.**", "voxel_encoder.**", ENCODER),
        Rule("backbone_3d.**", "middle_encoder.**", BACKBONE),
        Rule("backbone_2d.deblocks.**", "neck.deblocks.**"),
        Rule("backbone_2d.**", "backbone.**", BEV),
        Rule("dense_head.**", "bbox_head.**", head),
    )


PARTS: Table = (*BACKBONE, *ENCODER, *LAYER, *MERGING, *POSITION, *BLOCKS)
DENSE: Table = (*_detector((*ANCHOR, *CENTRE)), *PARTS)
OCCUPIED: Table = (*_detector(SPARSE), *PARTS)


def table(names: Iterable[str]) -> Table:
    """The rules for a state dict with these names, published or ours: of whole detectors and any part of them. The first that fits holds.

    The heads on occupied cells and on dense maps share published names; only the former call their heat map ``heatmap``.
    """
    sparse = re.compile(r"(dense_head|bbox_head)\.(heads_list|heads)\.\d+\.heatmap\.")
    return OCCUPIED if any(sparse.match(name) for name in names) else DENSE
