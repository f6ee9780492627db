"""Test-time regressions against stored numbers."""

from __future__ import annotations

import pytest
import torch
from operator_cases import TOLERANCE, backends, check_file, compare, operator_cases

import visionrnn.operators  # noqa: F401
from visionrnn.kernels import available_backends, titans_linear, ttt_linear
from visionrnn.registry import OPERATORS


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
    "ttt_linear": (official_ttt, backends("delta_rule", "ttt_linear")),
    "ttt_linear_fla": (fla_ttt, backends("delta_rule", "ttt_linear_fla")),
    "titans_linear": (titans, backends("delta_rule", "titans_linear")),
}


@operator_cases(ADAPTERS)
def test_functions(goldens_folder, name, backend, dtype):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)


NAMES = {  # official → ours
    "learnable_token_idx": "scale_offset",
    "learnable_ttt_lr_weight": "lr_proj.weight",
    "learnable_ttt_lr_bias": "lr_proj.bias",
    "ttt_norm_weight": "model_norm_weight",
    "ttt_norm_bias": "model_norm_bias",
    "W1": "model.weight",
    "b1": "model.bias",
    "o_proj.weight": "out_proj.weight",
    "g_proj.weight": "gate_proj.weight",
    **{f"conv_{name}.{part}": f"convs.{name}.{part}" for name in "qk" for part in ("weight", "bias")},
    **{f"post_norm.{part}": f"norm.{part}" for part in ("weight", "bias")},
}


@pytest.mark.parametrize(
    "backend, dtype",
    [
        (backend, dtype)
        for backend in available_backends("delta_rule", "ttt_linear", "cpu")
        for dtype in (torch.float64, torch.float32)
        if (backend, dtype) != ("native", torch.float64)  # native code computes in float32
    ],
)
@pytest.mark.goldens("operators", "ttt_linear_layer*.npz")
def test_layer(golden, backend, dtype):
    meta = golden.config
    layer = OPERATORS.build(
        {
            "type": "ttt_linear",
            "num_heads": meta["num_heads"],
            "mini_batch_size": meta["mini_batch_size"],
            "base_lr": meta["ttt_base_lr"],
            "gate": meta["use_gate"],
            "share_qk": meta["share_qk"],
            "d_conv": meta["conv_kernel"],
            "rope_theta": meta["rope_theta"],
            "backend": backend,
        },
        dim=meta["hidden_size"],
    ).to(dtype)
    parameters = dict(layer.named_parameters())
    stored = {NAMES.get(name, name): value for name, value in golden.group("sd/", dtype).items()}
    layer.load_state_dict({name: value.reshape(parameters[name].shape) for name, value in stored.items()})
    x = golden["x"].to(dtype).requires_grad_()
    out = layer(x)
    compare(out, golden["out"], TOLERANCE[dtype], "out")
    out.backward(golden["grad_out"].to(dtype))
    compare(x.grad, golden["grad/x"], TOLERANCE[dtype], "gradient of x")
    gradients = {NAMES.get(name, name): value for name, value in golden.group("grad/").items() if name != "x"}
    assert gradients.keys() == parameters.keys()
    for name, value in gradients.items():
        compare(parameters[name].grad, value, TOLERANCE[dtype], f"gradient of {name}")
