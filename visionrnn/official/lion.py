"""LION's published names (OpenPCDet's layout) and ours: voxel encoder, backbone, blocks."""

from __future__ import annotations

from visionrnn.official.blocks import BLOCKS
from visionrnn.official.rules import Rule, Table

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
)
ENCODER = (Rule("pfn_layers.*.linear.**", "layers.*.0.**"), Rule("pfn_layers.*.norm.**", "layers.*.1.**"))
DETECTOR = (Rule("vfe.**", "voxel_encoder.**", ENCODER), Rule("backbone_3d.**", "middle_encoder.**", BACKBONE))

LION: Table = (*DETECTOR, *BACKBONE, *ENCODER, *LAYER, *MERGING, *POSITION, *BLOCKS)
"""Whole detectors and any part of them. The first rule that fits a name holds."""
