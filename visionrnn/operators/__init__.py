"""Sequence operators by name: ``OPERATORS.build(dict(type="mamba"), dim=64)``. One file per operator."""

from visionrnn.operators.base import Operator
from visionrnn.operators.bidirectional import Bidirectional
from visionrnn.operators.mamba import Mamba

__all__ = ["Bidirectional", "Mamba", "Operator"]
