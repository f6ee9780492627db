"""Backbones. 3D: voxels → voxels. 2D: images → class scores and maps of features."""

from visionrnn.backbones.lion import LION
from visionrnn.backbones.lion_sparse import SparseLION
from visionrnn.backbones.vision_rnn import VisionRNN
from visionrnn.backbones.sequencer import Sequencer2D

__all__ = ["LION", "Sequencer2D", "SparseLION", "VisionRNN"]
