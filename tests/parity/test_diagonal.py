"""Diagonal recurrences against stored numbers."""

from __future__ import annotations

import torch
from operator_cases import backends, check_file, operator_cases

from visionrnn.kernels import diagonal_scan, longhorn, lru, min_gru, min_lstm, prefix_softmax, s4d, selective_scan


def stored_selective_scan(inputs, static, **options):
    """Stored with the time last; B and C have groups, or not, or are constant [D, N]: then every channel is a group of its own."""
    u, delta = inputs["u"].mT, inputs["delta"].mT
    z = inputs["z"].mT if "z" in inputs else None
    B, C = (value.expand(*u.shape[:2], -1, -1) if value.dim() == 2 else value.movedim(-1, 1) for value in (inputs["B"], inputs["C"]))
    y, state = selective_scan(
        u, delta, inputs["A"], B, C, inputs.get("D"), z, inputs.get("h0"),
        delta_bias=inputs.get("delta_bias"), delta_softplus=static["delta_softplus"], return_final_state=True, **options,
    )  # fmt: skip
    return {"y": y.mT, "ht": state}


def stored_hgrn(inputs, static, **options):
    o, state = diagonal_scan(inputs["x"], inputs["g"], inputs.get("h0"), return_final_state=True, **options)
    return {"o": o, "ht": state}


def stored_mingru(inputs, static, **options):
    options |= dict(positive=static["log_g"], return_final_state=True)
    o, state = min_gru(inputs["hidden"], inputs["gate"], inputs.get("h0"), **options)
    return {"o": o, "ht": state}


def stored_minlstm(inputs, static, **options):
    options |= dict(positive=static["log_g"], return_final_state=True)
    o, state = min_lstm(inputs["hidden"], inputs["f"], inputs["i"], inputs.get("h0"), **options)
    return {"o": o, "ht": state}


def stored_longhorn(inputs, static, **options):
    names = ("x", "beta", "k", "q", "D", "z", "h0")
    o, state = longhorn(*map(inputs.get, names), return_final_state=True, **options)
    return {"o": o, "ht": state}


def stored_lru(inputs, static, **options):
    log_decay = torch.complex(-inputs["nu_log"].exp(), inputs["theta_log"].exp())
    B, C = (torch.complex(inputs[name + "_re"], inputs[name + "_im"]) for name in "BC")
    o, state = lru(
        inputs["u"], log_decay, inputs["gamma_log"].exp()[:, None] * B, C, inputs["D"], complex_state(inputs),
        return_final_state=True, **options,
    )  # fmt: skip
    return {"o": o, "ht": torch.view_as_real(state)}


def stored_s4d(inputs, static, **options):
    A = torch.complex(-inputs["log_A_real"].exp(), inputs["A_imag"])
    y, state = s4d(
        inputs["u"], inputs["log_dt"].exp(), A, torch.view_as_complex(inputs["C"]), inputs["D"], complex_state(inputs),
        return_final_state=True, **options,
    )  # fmt: skip
    return {"y": y, "ht": torch.view_as_real(state)}


def complex_state(inputs):
    return torch.view_as_complex(inputs["h0"]) if "h0" in inputs else None


def stored_aaren(inputs, static, **options):
    state = (inputs["m0"], inputs["c0"], inputs["a0"]) if "m0" in inputs else None
    o, (maximum, denominator, numerator) = prefix_softmax(inputs["s"], inputs["v"], initial_state=state, return_final_state=True, **options)
    return {"o": o, "mt": maximum, "ct": denominator, "at": numerator}


def stored_rwkv4(inputs, static, **options):
    state = (inputs["max0"], inputs["den0"], inputs["num0"][..., None]) if "max0" in inputs else None
    o, (maximum, denominator, numerator) = prefix_softmax(
        inputs["k"], inputs["v"][..., None], inputs["w"], inputs["u"], state, return_final_state=True, **options
    )
    return {"o": o[..., 0], "maxt": maximum, "dent": denominator, "numt": numerator[..., 0]}


REAL, COMPLEX = backends("diagonal", "diagonal_scan"), backends("diagonal", "complex_diagonal_scan")
SOFTMAX = backends("diagonal", "prefix_softmax")
ADAPTERS = {
    "selective_scan": (stored_selective_scan, backends("diagonal", "selective_scan")),
    "hgrn": (stored_hgrn, REAL),
    "mingru": (stored_mingru, REAL),
    "minlstm": (stored_minlstm, REAL),
    "longhorn": (stored_longhorn, REAL),
    "lru": (stored_lru, COMPLEX),
    "s4d": (stored_s4d, COMPLEX),
    "aaren": (stored_aaren, SOFTMAX),
    "rwkv4": (stored_rwkv4, SOFTMAX),
}


@operator_cases(ADAPTERS)
def test_functions(goldens_folder, name, backend, dtype):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)
