"""Delta rules against stored cases of DeltaNet, Gated DeltaNet, DeltaProduct and RWKV-7."""

from __future__ import annotations

from operator_cases import backends, check_file, operator_cases

from visionrnn.kernels import delta_rule, generalized_delta_rule


def delta(inputs, static, **options):
    tensors = (inputs.get(name) for name in ("q", "k", "v", "beta", "g", "h0"))
    o, final = delta_rule(*tensors, steps=static.get("n_h", 1), scale=static["scale"], return_final_state=True, **options)
    return {"o": o, "ht": final}


def rwkv7(inputs, static, **options):
    tensors = (inputs.get(name) for name in ("r", "k", "v", "a", "b", "w", "h0"))
    o, final = generalized_delta_rule(*tensors, scale=static["scale"], return_final_state=True, **options)
    return {"o": o, "ht": final}


DELTA = backends("delta_rule", "delta_rule")
ADAPTERS = {
    "delta_rule": (delta, DELTA),
    "gated_delta_rule": (delta, DELTA),
    "delta_product_nh2": (delta, DELTA),
    "delta_product_nh3": (delta, DELTA),
    "rwkv7": (rwkv7, backends("delta_rule", "generalized_delta_rule")),
}


@operator_cases(ADAPTERS)
def test_stored_cases(goldens_folder, name, backend, dtype):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)
