"""Samples of the short causal convolution."""

from __future__ import annotations

from visionrnn.testing.samples import sample


@sample("causal_conv", "causal_conv", timed=("u",), states=("initial_state",), options={"activation": "silu"})
def causal_conv(draw, batch, length, heads, key, value):
    return {**causal_conv_alone(draw, batch, length, heads, key, value, taps=4), "bias": draw(heads * key)}


@sample("causal_conv", "causal_conv", timed=("u",), states=("initial_state",))
def causal_conv_alone(draw, batch, length, heads, key, value, taps=6):
    """Without bias and activation."""
    channels = heads * key
    return {"u": draw(batch, length, channels), "weight": draw(taps, channels), "initial_state": draw(batch, taps - 1, channels)}
