"""What a model costs: parameters, operations, sequences, time, memory, by part."""

from __future__ import annotations

from visionrnn.analysis.memory import ProcessPeak, TensorPeak
from visionrnn.analysis.operations import OperationCount
from visionrnn.analysis.trace import ScanTrace, Stopwatch

__all__ = ["OperationCount", "ProcessPeak", "ScanTrace", "Stopwatch", "TensorPeak"]
