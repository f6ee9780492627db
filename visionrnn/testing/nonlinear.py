"""Samples of the nonlinear recurrences."""
