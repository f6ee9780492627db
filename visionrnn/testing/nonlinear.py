"""Samples of the nonlinear recurrences."""

from __future__ import annotations

from typing import Any

from visionrnn.kernels import nonlinear_rnn
from visionrnn.testing.samples import sample


def _call(x, R, bias, y, c=None, n=None, m=None, **options: Any):
    state = tuple(value for value in (y, c, n, m) if value is not None)
    return nonlinear_rnn(x, R, bias, state if len(state) > 1 else y, **options)


def _inputs(draw, batch, length, heads, width, gates, biases, states):
    """R has spectral radius about one half, so that different roundings do not drift apart."""
    return {
        "x": draw(batch, length, gates, heads, width),
        "R": draw(gates, heads, width, width) * 0.5 * width**-0.5,
        "bias": draw(biases, heads, width),
        **{name: draw(batch, heads, width) for name in states},
    }


@sample("nonlinear", "nonlinear_rnn", timed=("x",), states=("y",), call=_call, options={"cell": "elman"})
def elman(draw, batch, length, heads, key, value):
    return _inputs(draw, batch, length, heads, key, 1, 1, ("y",))


@sample("nonlinear", "nonlinear_rnn", timed=("x",), states=("y",), call=_call, options={"cell": "gru"})
def gru(draw, batch, length, heads, key, value):
    return _inputs(draw, batch, length, heads, key, 3, 4, ("y",))


@sample("nonlinear", "nonlinear_rnn", timed=("x",), states=("y", "c"), call=_call, options={"cell": "lstm"})
def lstm(draw, batch, length, heads, key, value):
    return _inputs(draw, batch, length, heads, key, 4, 4, ("y", "c"))


def _slstm(draw, batch, length, heads, key):
    inputs = _inputs(draw, batch, length, heads, key, 4, 4, ("y", "c", "n", "m"))
    return {**inputs, "n": inputs["n"].abs() + 0.1}


@sample("nonlinear", "nonlinear_rnn", timed=("x",), states=("y", "c", "n", "m"), call=_call, options={"cell": "slstm"})
def slstm(draw, batch, length, heads, key, value):
    return _slstm(draw, batch, length, heads, key)


@sample(
    "nonlinear",
    "nonlinear_rnn",
    timed=("x",),
    states=("y", "c", "n", "m"),
    call=_call,
    options={"cell": "slstm", "normalizer_floor": False},
)
def slstm_without_floor(draw, batch, length, heads, key, value):
    return _slstm(draw, batch, length, heads, key)
