"""The calls of mamba-ssm and flash-linear-attention, against stored numbers of those libraries."""

from __future__ import annotations

import inspect

import pytest
import torch
from operator_cases import check_file, operator_cases

from visionrnn.kernels import compat


def selective_scan(inputs, static, **options):
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    given = {name: inputs.get(name) for name in names}
    how = dict(delta_softplus=static["delta_softplus"], return_last_state=True, initial_state=inputs.get("h0"))
    y, state = compat.selective_scan_fn(**given, **how)
    return {"y": y, "ht": state}


def mamba2(inputs, static, **options):
    names = {name: inputs.get(name) for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")}
    limit = (static.get("dt_min", 0.0), static.get("dt_max", float("inf")))
    how = dict(dt_softplus=static["dt_softplus"], dt_limit=limit, return_final_states=True, cu_seqlens=options.get("cu_seqlens"))
    y, state = compat.mamba_chunk_scan_combined(**names, initial_states=inputs.get("h0"), **how)
    return {"y": y, "ht": state}


def chunked(function, **renamed):
    """Adapter of a chunk_* function: the stored names are its own but for ``renamed``."""

    def adapter(inputs, static, **options):
        accepted = inspect.signature(function).parameters
        given = {renamed.get(name, name): value for name, value in inputs.items() if name != "h0"}
        how = {name: value for name, value in static.items() if name in accepted}
        if options.get("cu_seqlens") is not None:
            how["cu_seqlens"] = options["cu_seqlens"]
        if "num_householder" in accepted:
            how["num_householder"] = static["n_h"]
            given.setdefault("g", None)
        out, state = function(**given, initial_state=inputs.get("h0"), output_final_state=True, **how)
        return {"o": out, "ht": state}

    return adapter


def ttt(inputs, static, **options):
    names = {name: inputs[name] for name in ("q", "k", "v", "w", "b", "eta")}
    how = dict(scale=static["scale"], eps=static["eps"], chunk_size=static["mini_batch_size"], output_final_state=True)
    o, state, bias = compat.chunk_ttt_linear(
        **names, initial_state=inputs.get("h0"), initial_state_bias=inputs.get("hb0"), cu_seqlens=options.get("cu_seqlens"), **how
    )
    return {"o": o, "ht": state, "hbt": bias}


ADAPTERS = {
    "selective_scan": selective_scan,
    "mamba2_ssd": mamba2,
    "retention": chunked(compat.chunk_retention),
    "simple_gla": chunked(compat.chunk_simple_gla),
    "gla": chunked(compat.chunk_gla, gk="g"),
    "rwkv6": chunked(compat.chunk_rwkv6),
    "rwkv7": chunked(compat.chunk_rwkv7),
    "delta_rule": chunked(compat.chunk_delta_rule),
    "gated_delta_rule": chunked(compat.chunk_gated_delta_rule),
    "delta_product_nh2": chunked(compat.chunk_gated_delta_product),
    "ttt_linear_fla": ttt,
}


@operator_cases({name: (adapter, ("auto",)) for name, adapter in ADAPTERS.items()})
def test_stored_cases(name, backend, dtype, goldens_folder):
    check_file(goldens_folder, name, ADAPTERS[name], backend, dtype)


def test_no_state_unless_asked_for():
    q = torch.randn(1, 5, 2, 4)
    o, state = compat.chunk_gla(q, q, q, -q.abs())
    assert o.shape == q.shape and state is None


def test_normalized_linear_attention_averages_values():
    q, v = torch.rand(1, 6, 1, 3), torch.randn(1, 6, 1, 2)
    o, _ = compat.chunk_linear_attn(q, torch.ones_like(q), v)
    means = v.cumsum(1) / torch.arange(1, 7).view(1, 6, 1, 1)
    assert torch.allclose(o, means, atol=1e-6)


@pytest.mark.parametrize("function", [compat.chunk_gla, compat.chunk_delta_rule, compat.selective_scan_fn])
def test_unknown_keywords_are_refused(function):
    with pytest.raises(TypeError, match="head_first"):
        function(head_first=True)
