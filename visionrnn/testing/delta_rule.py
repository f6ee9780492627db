"""Samples of the delta_rule recurrences."""
