"""Gated linear recurrences against stored outputs, states and gradients."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from operator_cases import backends, check_file, operator_cases

from visionrnn.kernels import gated_linear_attention, lightnet, mlstm, state_space_dual

BACKENDS = backends("gated_linear", "gated_linear_attention")
ROTATING = backends("gated_linear", "complex_gated_linear_attention")


def attention(q, k, v, log_decay, inputs, static, **options):
    o, state = gated_linear_attention(
        q, k, v, log_decay, inputs.get("h0"), bonus=inputs.get("u"), scale=static["scale"], return_final_state=True, **options
    )
    return {"o": o, "ht": state}


def retention(inputs, static, **options):
    heads = torch.arange(inputs["q"].shape[2], dtype=inputs["q"].dtype, device=inputs["q"].device)
    return attention(inputs["q"], inputs["k"], inputs["v"], torch.log1p(-(2 ** (-5 - heads))), inputs, static, **options)


def simple_gla(inputs, static, **options):
    return attention(inputs["q"], inputs["k"], inputs["v"], inputs["g"], inputs, static, **options)


def gla(inputs, static, **options):
    return attention(inputs["q"], inputs["k"], inputs["v"], inputs["gk"], inputs, static, **options)


def rwkv6(inputs, static, **options):
    return attention(inputs["r"], inputs["k"], inputs["v"], inputs["w"], inputs, static, **options)


def hgrn2(inputs, static, **options):
    return attention(inputs["q"], 1 - inputs["g"].exp(), inputs["v"], inputs["g"], inputs, static, **options)


def gateloop(inputs, static, **options):
    given = {"h0": torch.view_as_complex(inputs["h0"])} if "h0" in inputs else {}
    log_decay = torch.complex(inputs["log_mag"], inputs["phase"])
    found = attention(inputs["q"], inputs["k"], inputs["v"], log_decay, given, {"scale": 1.0}, **options)
    return {"o": found["o"], "ht": torch.view_as_real(found["ht"])}


def mlstm_with(gating, inputs, static, **options):
    state = tuple(inputs[name] for name in ("c0", "n0", "m0") if name in inputs) or None
    arguments = (inputs[name] for name in ("q", "k", "v", "i", "f"))
    h, final = mlstm(*arguments, state, gating=gating, return_final_state=True, **static, **options)
    return {"h": h, **dict(zip(("ct", "nt", "mt"), final, strict=False))}


def light(inputs, static, **options):
    state = (inputs["h0"], inputs["z0"]) if "h0" in inputs else None
    o, (S, z) = lightnet(inputs["q"], inputs["k"], inputs["v"], state, scale=static["scale"], return_final_state=True, **options)
    return {"o": o, "ht": S, "zt": z}


def mamba2(inputs, static, **options):
    limits = (static.get("dt_min", 0.0), static.get("dt_max", float("inf")))
    arguments = (inputs.get(name) for name in ("x", "dt", "A", "B", "C", "D", "z", "h0"))
    options |= dict(dt_bias=inputs.get("dt_bias"), dt_softplus=static["dt_softplus"], dt_limits=limits)
    y, state = state_space_dual(*arguments, return_final_state=True, **options)
    return {"y": y, "ht": state}


ADAPTERS = {
    "retention": (retention, BACKENDS),
    "simple_gla": (simple_gla, BACKENDS),
    "gla": (gla, BACKENDS),
    "rwkv6": (rwkv6, BACKENDS),
    "hgrn2": (hgrn2, BACKENDS),
    "gateloop": (gateloop, ROTATING),
    "mlstm": (partial(mlstm_with, "exp"), BACKENDS),
    "mlstm_siging": (partial(mlstm_with, "sigmoid"), BACKENDS),
    "lightnet": (light, BACKENDS),
    "mamba2_ssd": (mamba2, BACKENDS),
}


@operator_cases(ADAPTERS)
def test_stored_cases(name: str, backend: str, dtype: torch.dtype, goldens_folder: Path):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)
