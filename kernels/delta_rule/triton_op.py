"""Launches the Triton kernels of the delta rules, as custom ops with backward ops of their own."""
