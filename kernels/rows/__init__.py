"""Mamba's mixer before and after its two scans, each part in one launch; for Triton, without gradients.

In between, everything lies in the order of the scan; rows are read and written through ``index``, so that no copy in another order is made.
With gradients, and on any other back end, the operator does the same by products, convolution and scan of their own.
"""

from .triton_op import MAX_CHANNELS, Direction, MixerInputs, mixer_inputs, mixer_output

__all__ = ["MAX_CHANNELS", "Direction", "MixerInputs", "mixer_inputs", "mixer_output"]
