"""Samples of the gated_linear recurrences."""

from __future__ import annotations

from typing import Any

import torch

from visionrnn.kernels import lightnet as lightnet_function
from visionrnn.kernels import mlstm as mlstm_function
from visionrnn.kernels import symmetric_retention as symmetric_retention_function
from visionrnn.testing.samples import sample

FUNCTION = ("gated_linear", "gated_linear_attention")
TIMED, STATE = ("q", "k", "v", "log_decay"), ("initial_state",)


def attention(draw, batch, length, heads, key, value, state=True):
    inputs = {"q": draw(batch, length, heads, key), "k": draw(batch, length, heads, key), "v": draw(batch, length, heads, value)}
    return inputs | {"initial_state": draw(batch, heads, key, value)} if state else inputs


@sample(*FUNCTION, timed=TIMED, states=STATE)
def linear_attention(draw, batch, length, heads, key, value):
    return attention(draw, batch, length, heads, key, value)


@sample(*FUNCTION, timed=TIMED[:3], states=STATE, exact=False)
def retention(draw, batch, length, heads, key, value):
    return attention(draw, batch, length, heads, key, value) | {"log_decay": -draw(heads).abs() / 8}


@sample(*FUNCTION, timed=TIMED, states=STATE)
def simple_gla(draw, batch, length, heads, key, value):
    return attention(draw, batch, length, heads, key, value) | {"log_decay": -draw(batch, length, heads).abs()}


@sample(*FUNCTION, timed=TIMED, states=STATE)
def gla(draw, batch, length, heads, key, value):
    return attention(draw, batch, length, heads, key, value) | {"log_decay": -draw(batch, length, heads, key).abs()}


@sample(*FUNCTION, timed=TIMED, states=STATE, options={"scale": 1.0})
def rwkv6(draw, batch, length, heads, key, value):
    gates = {"log_decay": -draw(batch, length, heads, key).exp(), "bonus": draw(heads, key)}
    return attention(draw, batch, length, heads, key, value) | gates


@sample(*FUNCTION, timed=TIMED, states=STATE)
def simple_gla_with_bonus(draw, batch, length, heads, key, value):
    gates = {"log_decay": -draw(batch, length, heads).abs(), "bonus": draw(heads, key)}
    return attention(draw, batch, length, heads, key, value) | gates


@sample("gated_linear", "gated_linear_attention", timed=TIMED, states=STATE, kernel="complex_gated_linear_attention", exact=False)
def gateloop(draw, batch, length, heads, key, value):
    inputs = attention(draw, batch, length, heads, key, value, state=False)
    inputs["log_decay"] = torch.complex(-draw(batch, length, heads, key).abs(), 3 * draw(batch, length, heads, key))
    return inputs | {"initial_state": torch.complex(draw(batch, heads, key, value), draw(batch, heads, key, value))}


def mlstm_call(C, n, m=None, **inputs):
    return mlstm_function(**inputs, initial_state=(C, n) if m is None else (C, n, m))


def gated(draw, batch, length, heads, key, value):
    gates = {"input_gate": draw(batch, length, heads), "forget_gate": 2 + draw(batch, length, heads)}
    states = {"C": draw(batch, heads, key, value), "n": draw(batch, heads, key)}
    return attention(draw, batch, length, heads, key, value, state=False) | gates | states


MLSTM: dict[str, Any] = dict(
    timed=("q", "k", "v", "input_gate", "forget_gate"), kernel="gated_linear_attention", call=mlstm_call, exact=False
)


@sample("gated_linear", "mlstm", states=("C", "n", "m"), **MLSTM)
def mlstm(draw, batch, length, heads, key, value):
    return gated(draw, batch, length, heads, key, value) | {"m": draw(batch, heads)}


@sample("gated_linear", "mlstm", states=("C", "n"), options={"gating": "sigmoid"}, **MLSTM)
def mlstm_sigmoid(draw, batch, length, heads, key, value):
    return gated(draw, batch, length, heads, key, value)


@sample("gated_linear", "mlstm", states=("C", "n"), options={"gating": "sigmoid", "normalize": False}, **MLSTM)
def mlstm_sigmoid_undivided(draw, batch, length, heads, key, value):
    return gated(draw, batch, length, heads, key, value)


def lightnet_call(S, z, **inputs):
    return lightnet_function(**inputs, initial_state=(S, z))


@sample("gated_linear", "lightnet", timed=TIMED[:3], states=("S", "z"), kernel="gated_linear_attention", call=lightnet_call, exact=False)
def lightnet(draw, batch, length, heads, key, value):
    states = {"S": draw(batch, heads, key, value), "z": draw(batch, heads, key)}
    return attention(draw, batch, length, heads, key, value, state=False) | states


def symmetric_retention_call(return_final_state=False, **inputs):
    out = symmetric_retention_function(**inputs)
    return (out, ()) if return_final_state else out


@sample(
    "gated_linear",
    "symmetric_retention",
    timed=TIMED[:3],
    kernel="gated_linear_attention",
    call=symmetric_retention_call,
    options={"chunk_size": 16},
    exact=False,
)
def symmetric_retention(draw, batch, length, heads, key, value):
    return attention(draw, batch, length, heads, key, value, state=False) | {"log_decay": -draw(heads).abs() / 8}


@sample(
    "gated_linear",
    "state_space_dual",
    timed=("x", "dt", "B", "C", "z"),
    states=STATE,
    kernel="gated_linear_attention",
    options={"dt_softplus": True},
    exact=False,
)
def state_space_dual(draw, batch, length, heads, key, value):
    """``heads`` groups, each for two heads."""
    return {
        "x": draw(batch, length, 2 * heads, value),
        "dt": draw(batch, length, 2 * heads) - 1,
        "A": -draw(2 * heads).exp(),
        "B": draw(batch, length, heads, key),
        "C": draw(batch, length, heads, key),
        "D": draw(2 * heads),
        "z": draw(batch, length, 2 * heads, value),
        "dt_bias": draw(2 * heads),
        "initial_state": draw(batch, 2 * heads, value, key),
    }
