"""Samples of the diagonal recurrences."""

from __future__ import annotations

from visionrnn.testing.samples import sample


@sample("diagonal", "diagonal_scan", timed=("x", "log_decay"), states=("initial_state",))
def diagonal_scan(draw, batch, length, heads, key, value):
    channels = heads * key
    return {
        "x": draw(batch, length, channels),
        "log_decay": -draw(batch, length, channels).abs(),
        "initial_state": draw(batch, channels),
    }


@sample("diagonal", "selective_scan", timed=("u", "delta", "B", "C"), states=("initial_state",))
def selective_scan(draw, batch, length, heads, key, value):
    """``heads`` groups of B and C, ``value`` channels in each, ``key`` states per channel."""
    channels = heads * value
    return {
        "u": draw(batch, length, channels),
        "delta": draw(batch, length, channels).abs(),
        "A": -draw(channels, key).exp(),
        "B": draw(batch, length, heads, key),
        "C": draw(batch, length, heads, key),
        "D": draw(channels),
        "initial_state": draw(batch, channels, key),
    }


@sample(
    "diagonal",
    "selective_scan",
    timed=("u", "delta", "B", "C", "z"),
    states=("initial_state",),
    options={"delta_softplus": True},
    exact=False,
)
def gated_selective_scan(draw, batch, length, heads, key, value):
    """Softplus before, gate after the scan. ``heads`` groups of B and C, ``value`` channels in each, ``key`` states per channel."""
    channels = heads * value
    return {
        **selective_scan(draw, batch, length, heads, key, value),
        "delta": draw(batch, length, channels) - 1,
        "z": draw(batch, length, channels),
    }
