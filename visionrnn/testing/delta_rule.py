"""Samples of the delta rules: keys of length one, so that the transitions never grow."""

from __future__ import annotations

import torch.nn.functional as F

from visionrnn.testing.samples import sample


def _shared(draw, batch, length, heads, key, value, steps=1):
    """β covers (0, 2)."""
    return {
        "q": draw(batch, length, heads, key),
        "k": F.normalize(draw(batch, length * steps, heads, key), dim=-1),
        "v": draw(batch, length * steps, heads, value),
        "beta": 2 * draw(batch, length * steps, heads).sigmoid(),
    }


@sample("delta_rule", "delta_rule", timed=("q", "k", "v", "beta"), states=("initial_state",))
def delta_rule(draw, batch, length, heads, key, value):
    return {**_shared(draw, batch, length, heads, key, value), "initial_state": draw(batch, heads, key, value)}


@sample("delta_rule", "delta_rule", timed=("q", "k", "v", "beta", "log_decay"), states=("initial_state",))
def gated_delta_rule(draw, batch, length, heads, key, value):
    return {
        **_shared(draw, batch, length, heads, key, value),
        "log_decay": -draw(batch, length, heads).abs(),
        "initial_state": draw(batch, heads, key, value),
    }


@sample("delta_rule", "delta_rule", timed=("q", "k", "v", "beta", "log_decay"), states=("initial_state",))
def kda(draw, batch, length, heads, key, value):
    return {
        **_shared(draw, batch, length, heads, key, value),
        "log_decay": -draw(batch, length, heads, key).abs(),
        "initial_state": draw(batch, heads, key, value),
    }


@sample("delta_rule", "delta_rule", timed=("q", "k", "v", "beta", "log_decay"), states=("initial_state",), options={"steps": 2})
def delta_product(draw, batch, length, heads, key, value):
    return {
        **_shared(draw, batch, length, heads, key, value, steps=2),
        "log_decay": -draw(batch, length, heads).abs(),
        "initial_state": draw(batch, heads, key, value),
    }


@sample("delta_rule", "generalized_delta_rule", timed=("q", "k", "v", "a", "b", "log_decay"), states=("initial_state",))
def generalized_delta_rule(draw, batch, length, heads, key, value):
    direction = F.normalize(draw(batch, length, heads, key), dim=-1)
    return {
        "q": draw(batch, length, heads, key),
        "k": draw(batch, length, heads, key) * key**-0.5,
        "v": draw(batch, length, heads, value),
        "a": -direction,
        "b": direction * draw(batch, length, heads, key).sigmoid(),
        "log_decay": -0.6 * draw(batch, length, heads, key).sigmoid(),
        "initial_state": draw(batch, heads, key, value),
    }
