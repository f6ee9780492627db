"""Samples of the diagonal recurrences."""

from __future__ import annotations

import torch

import visionrnn.kernels
from visionrnn.testing.samples import sample


@sample("diagonal", "diagonal_scan", timed=("x", "log_decay"), states=("initial_state",))
def diagonal_scan(draw, batch, length, heads, key, value):
    channels = heads * key
    return {
        "x": draw(batch, length, channels),
        "log_decay": -draw(batch, length, channels).abs(),
        "initial_state": draw(batch, channels),
    }


def _signed(sign, **arguments):
    """The samples' numbers are not ±1."""
    return visionrnn.kernels.diagonal_scan(sign=sign.detach().sign(), **arguments)


@sample("diagonal", "diagonal_scan", timed=("x", "log_decay", "sign"), states=("initial_state",), call=_signed)
def signed_diagonal_scan(draw, batch, length, heads, key, value):
    return {**diagonal_scan(draw, batch, length, heads, key, value), "sign": draw(batch, length, heads * key)}


@sample("diagonal", "diagonal_scan", timed=("x", "log_decay"), states=("initial_state",), kernel="complex_diagonal_scan", exact=False)
def complex_diagonal_scan(draw, batch, length, heads, key, value):
    real, turn = (diagonal_scan(draw, batch, length, heads, key, value) for _ in range(2))
    return {name: torch.complex(real[name], turn[name]) for name in real}


def _positive_steps(delta, **arguments):
    return visionrnn.kernels.selective_scan(delta=delta.abs(), **arguments)


@sample("diagonal", "selective_scan", timed=("u", "delta", "B", "C"), states=("initial_state",), call=_positive_steps)
def selective_scan(draw, batch, length, heads, key, value):
    """``heads`` groups of B and C, ``value`` channels in each, ``key`` states per channel."""
    channels = heads * value
    return {
        "u": draw(batch, length, channels),
        "delta": draw(batch, length, channels),
        "A": -draw(channels, key).exp(),
        "B": draw(batch, length, heads, key),
        "C": draw(batch, length, heads, key),
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
    """With softplus, skip and gate. ``heads`` groups of B and C, ``value`` channels in each, ``key`` states per channel."""
    channels = heads * value
    return {
        **selective_scan(draw, batch, length, heads, key, value),
        "delta": draw(batch, length, channels) - 1,
        "D": draw(channels),
        "z": draw(batch, length, channels),
    }


def _prefix_softmax(maximum, denominator, numerator, **arguments):
    return visionrnn.kernels.prefix_softmax(initial_state=(maximum, denominator, numerator), **arguments)


SUMS = ("maximum", "denominator", "numerator")


@sample("diagonal", "prefix_softmax", timed=("scores", "values"), states=SUMS, call=_prefix_softmax)
def prefix_softmax(draw, batch, length, heads, key, value):
    return {
        "scores": draw(batch, length, heads),
        "values": draw(batch, length, heads, value),
        "maximum": draw(batch, heads),
        "denominator": draw(batch, heads).exp(),
        "numerator": draw(batch, heads, value),
    }


@sample("diagonal", "prefix_softmax", timed=("scores", "values"), states=SUMS, call=_prefix_softmax, exact=False)
def rwkv4(draw, batch, length, heads, key, value):
    """Not exact: torch sums the gradient of the decay over time."""
    channels = heads * key
    return {**prefix_softmax(draw, batch, length, channels, key, 1), "log_decay": -draw(channels).exp(), "bonus": draw(channels)}
