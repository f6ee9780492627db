"""Test-time regressions against stored numbers."""

from __future__ import annotations

from operator_cases import check_file, operator_cases

from visionrnn.kernels import available_backends, titans_linear, ttt_linear


def official_ttt(inputs, static, **options):
    o, (weight, bias) = ttt_linear(
        *(inputs[name] for name in ("q", "k", "v", "lr", "ln_weight", "ln_bias")),
        (inputs["W0"], inputs["b0"]),
        token_scale=inputs["token_idx"],
        mini_batch_size=static["mini_batch_size"],
        eps=static["eps"],
        return_final_state=True,
        **options,
    )
    return {"o": o, "Wt": weight, "bt": bias}


def fla_ttt(inputs, static, **options):
    o, (weight, bias) = ttt_linear(
        inputs["q"] * (inputs["q"].shape[-1] ** -0.5 if static["scale"] is None else static["scale"]),
        inputs["k"],
        inputs["v"],
        inputs["eta"].squeeze(-1),
        inputs["w"],
        inputs["b"],
        (inputs["h0"], inputs["hb0"].squeeze(2)),
        mini_batch_size=static["mini_batch_size"],
        eps=static["eps"],
        form="fla",
        return_final_state=True,
        **options,
    )
    return {"o": o, "ht": weight, "hbt": bias.unsqueeze(2)}


def titans(inputs, static, **options):
    state = (inputs["m0"], inputs["s0"]) if "m0" in inputs else None
    values = (inputs[name] for name in ("q", "k", "v", "theta", "eta", "alpha"))
    o, (memory, momentum) = titans_linear(*values, state, return_final_state=True, **options)
    return {"o": o, "mt": memory, "st": momentum}


ADAPTERS = {
    "ttt_linear": (official_ttt, available_backends("delta_rule", "ttt_linear")),
    "ttt_linear_fla": (fla_ttt, available_backends("delta_rule", "ttt_linear_fla")),
    "titans_linear": (titans, available_backends("delta_rule", "titans_linear")),
}


@operator_cases(ADAPTERS)
def test_functions(goldens_folder, name, backend, dtype):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)
