"""What tests and benchmarks of kernels share: an error measure, bounds derived from the reference's own rounding, sample inputs."""

from __future__ import annotations

from visionrnn.testing import causal_conv, delta_rule, diagonal, gated_linear, nonlinear, test_time  # noqa: F401  (they register their samples)
from visionrnn.testing.samples import BOUNDS, SAMPLES, Sample, error

__all__ = ["BOUNDS", "SAMPLES", "Sample", "error"]
