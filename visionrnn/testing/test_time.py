"""Samples of the test-time regressions; ``key`` is the width of both keys and values where the inner model needs them equal."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from visionrnn import kernels
from visionrnn.testing.samples import sample


def _mini_batched(draw, batch, length, heads, width):
    return {
        **{name: draw(batch, length, heads, width) for name in ("q", "k", "v")},
        "learning_rate": draw(batch, length, heads).sigmoid() / width,
        "norm_weight": 1 + 0.1 * draw(heads, width),
        "norm_bias": 0.1 * draw(heads, width),
    }


def _ttt_linear(*, weight, bias, **inputs):
    return kernels.ttt_linear(**inputs, initial_state=(weight, bias))


def _ttt_mlp(*, weight_in, bias_in, weight_out, bias_out, **inputs):
    return kernels.ttt_mlp(**inputs, initial_state=(weight_in, bias_in, weight_out, bias_out))


def _titans_linear(*, memory, momentum, **inputs):
    return kernels.titans_linear(**inputs, initial_state=(memory, momentum))


TIMED, STATES = ("q", "k", "v", "learning_rate"), ("weight", "bias")
FLA: dict[str, Any] = {"form": "fla", "mini_batch_size": 4}


@sample("delta_rule", "ttt_linear", timed=TIMED, states=STATES, call=_ttt_linear)
def ttt_linear(draw, batch, length, heads, key, value):
    return {
        **_mini_batched(draw, batch, length, heads, key),
        "token_scale": (1 + 0.1 * draw(16)) / (1 + draw(16).abs()),
        "weight": 0.5 * draw(batch, heads, key, key),
        "bias": 0.5 * draw(batch, heads, key),
    }


@sample("delta_rule", "ttt_linear", TIMED, STATES, kernel="ttt_linear_fla", call=_ttt_linear, options=FLA)
def ttt_linear_fla(draw, batch, length, heads, key, value):
    inputs = ttt_linear(draw, batch, length, heads, key, value)
    return {name: given for name, given in inputs.items() if name != "token_scale"}


@sample(
    "delta_rule",
    "ttt_mlp",
    timed=TIMED,
    states=("weight_in", "bias_in", "weight_out", "bias_out"),
    call=_ttt_mlp,
    options={"mini_batch_size": 4},
)
def ttt_mlp(draw, batch, length, heads, key, value):
    """``value`` is the hidden width."""
    return {
        **_mini_batched(draw, batch, length, heads, key),
        "weight_in": 0.5 * draw(batch, heads, key, value),
        "bias_in": 0.5 * draw(batch, heads, value),
        "weight_out": 0.5 * draw(batch, heads, value, key),
        "bias_out": 0.5 * draw(batch, heads, key),
    }


@sample(
    "delta_rule",
    "titans_linear",
    timed=("q", "k", "v", "theta", "eta", "alpha"),
    states=("memory", "momentum"),
    call=_titans_linear,
)
def titans_linear(draw, batch, length, heads, key, value):
    return {
        "q": draw(batch, length, heads, key),
        "k": F.normalize(draw(batch, length, heads, key), dim=-1),
        "v": draw(batch, length, heads, value),
        "theta": 0.4 * draw(batch, length, heads).sigmoid(),
        "eta": draw(batch, length, heads).sigmoid(),
        "alpha": 0.2 * draw(batch, length, heads).sigmoid(),
        "memory": draw(batch, heads, key, value),
        "momentum": draw(batch, heads, key, value),
    }
