"""The mLSTM operator against layers of the first Vision-LSTM, whose order along the tokens is causal; the second one's are not."""

from __future__ import annotations

import pytest
import torch

import visionrnn.operators  # noqa: F401
from visionrnn.registry import OPERATORS


def ours(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published names of a layer's weights, or of their gradients → ours."""
    gates = (f"mlstm_cell.{gate}" for gate in ("igate", "fgate"))
    igate, fgate = ({kind: stored[f"{gate}.{kind}"] for kind in ("weight", "bias")} for gate in gates)
    return {
        "up_proj.weight": stored["proj_up.weight"],
        "down_proj.weight": stored["proj_down.weight"],
        "conv1d.weight": stored["conv1d.conv.weight"],
        "conv1d.bias": stored["conv1d.conv.bias"],
        "qkv_weight": torch.stack([stored[f"{name}_proj.weight"] for name in "qkv"]),
        "gates.weight": torch.cat([igate["weight"], fgate["weight"]]),
        "gates.bias": torch.cat([igate["bias"], fgate["bias"]]),
        "norm.weight": stored["mlstm_cell.outnorm.weight"].unflatten(0, (4, -1)),
        "skip": stored["learnable_skip"],
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.goldens("vil", "layer_v1_[tb][lr].npz")
def test_layer(golden, dtype, close):
    weights, backwards = ours(golden.group("sd/", dtype)), "bot" in golden.config["direction"]
    weights["norm.weight"] = weights["norm.weight"] + 1  # stored as the difference from one
    operator = OPERATORS.build("mlstm", dim=golden["x"].shape[-1]).to(dtype)
    operator.load_state_dict(weights)
    x = golden["x"].to(dtype).requires_grad_()
    out = operator(x.flip(1)).flip(1) if backwards else operator(x)
    close(out, golden["out"], 2e-6 if dtype == torch.float64 else 2e-5, "out")
    out.backward(golden["grad_out"].to(dtype))
    bound = 5e-6 if dtype == torch.float64 else 5e-5
    close(x.grad, golden["grad/x"], bound, "x")
    gradients = ours(golden.group("grad/"))
    for name, parameter in operator.named_parameters():
        close(parameter.grad, gradients[name], bound, name)
