"""Parts of the TransFusion head (Bai et al. 2022) as LION has it on nuScenes. Nothing here is registered with mmdet3d."""

from visionrnn.integrations.mmdet3d.transfusion.assigner import HungarianAssigner
from visionrnn.integrations.mmdet3d.transfusion.boxes import CODES, BoxCode
from visionrnn.integrations.mmdet3d.transfusion.decoder import DecoderLayer, window_bias
from visionrnn.integrations.mmdet3d.transfusion.layers import Branches, ConvNorm, RowsAreX
from visionrnn.integrations.mmdet3d.transfusion.targets import Targets, assign

__all__ = [
    "CODES",
    "BoxCode",
    "Branches",
    "ConvNorm",
    "DecoderLayer",
    "HungarianAssigner",
    "RowsAreX",
    "Targets",
    "assign",
    "window_bias",
]
