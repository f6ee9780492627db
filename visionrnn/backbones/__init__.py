"""Backbones. 3D: voxels → voxels. 2D: images → class scores and maps of features."""

from visionrnn.backbones.lion import LION
from visionrnn.backbones.lion_sparse import SparseLION
from visionrnn.backbones.pyramid import PyramidRNN
from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.backbones.vil import ViL
from visionrnn.backbones.vision_rnn import VisionRNN

__all__ = ["LION", "PyramidRNN", "Sequencer2D", "SparseLION", "ViL", "VisionRNN"]
