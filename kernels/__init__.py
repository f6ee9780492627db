"""Recurrences as functions: one signature per family, several back ends.

Families (see each folder): ``diagonal`` h_t = a_t h_{t-1} + x_t. Layout: batch B, time T, then channels or heads.
Imported as ``visionrnn.kernels``, never as ``kernels``: a second import would load everything twice.
"""

if __name__ != "visionrnn.kernels":
    raise ImportError(f"this package is 'visionrnn.kernels', not {__name__!r}: import visionrnn.kernels")

from .diagonal import diagonal_scan, selective_scan
from .dispatch import available_backends

__all__ = ["available_backends", "diagonal_scan", "selective_scan"]
