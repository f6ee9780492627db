"""Stored cases of Vision-LSTM: what the authors' package was built with → our arguments, and comparing a whole module."""

from __future__ import annotations

from typing import Any

import torch
from stored import Golden
from torch import Tensor, nn

from visionrnn.backbones.vil import V1, V2, ViL
from visionrnn.checkpoints import as_official, load_official

POOLS = {"bilateral_avg": "bilateral_avg", "bilateral_flatten": "bilateral_concat", None: "", "to_image": ""}

OUT = {torch.float64: 2e-6, torch.float32: 1e-5}
"""Bounds for outputs, relative to the largest: stored numbers are rounded to float32 (6e-8), and our recurrence starts its stabiliser
at 0 where the stored parallel form has none, which leaves its mark beside the normaliser's 1e-6."""

GRAD = {torch.float64: 5e-6, torch.float32: 2e-4}
"""Bounds for gradients. In float32 our definition, the loop over time, is itself off by 7e-5 in the pair of blocks."""


def built(config: dict[str, Any]) -> ViL:
    """Our model for stored constructor arguments of the package. The second version's ``depth`` counts pairs of layers."""
    given, second = config["kwargs"], "VisionLSTM2" in config.get("cls", config.get("class_", ""))
    arguments = {**(V2 if second else V1)}
    arguments["layer"] = dict(arguments["layer"])
    if given.get("conv_kind") == "causal1d":
        arguments["layer"].update(conv="causal", conv_kernel=3)
    arguments["layer"]["bias"] = given.get("proj_bias", second)
    arguments["norm_bias"] = given.get("norm_bias", second)
    if "pooling" in given:
        arguments["global_pool"] = POOLS[given["pooling"]]
    if not given.get("legacy_norm"):
        arguments["norms"] = "tokens" if second else "head"
    classes = given.get("output_shape", [1000])
    return ViL(
        given.get("input_shape", [3, 224, 224])[1:], given.get("patch_size", 16), 3, classes[0] if classes else 0, **arguments,
        dim=given["dim"], depth=given["depth"] * (2 if second else 1), stride=given.get("stride"),
        init=given.get("init_weights", "original"),
    )  # fmt: skip


def load(module: nn.Module, golden: Golden, dtype: torch.dtype) -> None:
    """The stored weights under their published names, and the way back."""
    stored = golden.group("sd/", dtype)
    load_official(module.to(dtype), stored, "vil")
    back = as_official(module.state_dict(), "vil_package")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)


def compare(module: nn.Module, out: Tensor, inputs: dict[str, Tensor], golden: Golden, close) -> None:
    """The output, and the gradients of all stored parameters and ``inputs``."""
    dtype = out.dtype
    close(out, golden["out"], OUT[dtype], "out")
    out.backward(golden["grad_out"].to(dtype))
    gradients = {name: value.grad for name, value in module.named_parameters()}
    found = {**as_official(gradients, "vil_package"), **{name: value.grad for name, value in inputs.items()}}
    stored = golden.group("grad/")
    assert len(stored) > 10
    for name, value in stored.items():
        close(found[name], value, GRAD[dtype], name)
