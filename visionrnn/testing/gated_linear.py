"""Samples of the gated_linear recurrences."""
