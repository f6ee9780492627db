"""What only delta rules have: forms that are special cases of each other, reflections, segments that are computed again."""

from __future__ import annotations

import sys

import pytest
import torch
from recurrence_checks import cast, extreme_inputs

from visionrnn.kernels import available_backends, delta_rule, generalized_delta_rule
from visionrnn.testing import BOUNDS, SAMPLES, error

BACKENDS = pytest.mark.parametrize("backend", [name for name in available_backends("delta_rule", "delta_rule", "cpu") if name != "native"])
SIZES = dict(batch=2, length=70, heads=2, key=6, value=4)


def agree(found: dict, want: dict) -> None:
    for name, value in found.items():
        assert error(value, want[name]) <= 1e-12, name


@BACKENDS
def test_equal_decays_of_all_key_channels_are_a_decay_per_head(backend):
    inputs = SAMPLES["gated_delta_rule"].inputs(**SIZES)
    per_channel = {**inputs, "log_decay": inputs["log_decay"][..., None].expand(-1, -1, -1, 6)}
    found = SAMPLES["kda"].gradients(per_channel, backend=backend)
    found["d log_decay"] = found["d log_decay"].sum(-1)
    agree(found, SAMPLES["gated_delta_rule"].gradients(inputs, backend=backend))


@BACKENDS
def test_decay_per_key_channel_is_a_product_of_matrices(backend):
    """Against transitions (I − β k kᵀ) diag(decay) that are really formed."""
    inputs = SAMPLES["kda"].inputs(**SIZES)
    q, k, v, beta, decay, state = (value.detach() for value in inputs.values())
    want = []
    for t in range(q.shape[1]):
        k_t, beta_t = k[:, t, :, :, None], beta[:, t, :, None, None]
        transition = (torch.eye(6, dtype=q.dtype) - beta_t * k_t @ k_t.mT) @ torch.diag_embed(decay[:, t].exp())
        state = transition @ state + beta_t * k_t @ v[:, t, :, None]
        want.append((q[:, t, :, None] @ state).squeeze(-2) * 6**-0.5)
    out, (final,) = SAMPLES["kda"].run(inputs, backend=backend)
    assert error(out, torch.stack(want, 1)) <= 1e-12
    assert error(final, state) <= 1e-12


@BACKENDS
@pytest.mark.parametrize("per_channel", [False, True], ids=["per head", "per channel"])
def test_steps_are_tokens_whose_outputs_are_skipped(backend, per_channel):
    inputs = cast(SAMPLES["delta_product"].inputs(**SIZES), torch.float64)
    if per_channel:
        inputs["log_decay"] = cast(SAMPLES["kda"].inputs(**SIZES), torch.float64)["log_decay"]
    spread = {name: torch.stack([torch.zeros_like(inputs[name]), inputs[name]], 2).flatten(1, 2) for name in ("q", "log_decay")}
    spread["log_decay"] = spread["log_decay"].roll(-1, 1)  # decay before the first step, read after the last
    out, final = delta_rule(**{**inputs, **spread}, return_final_state=True, backend=backend)
    found, state = delta_rule(**inputs, steps=2, return_final_state=True, backend=backend)
    assert error(found, out[:, 1::2]) <= 1e-12
    assert error(state, final) <= 1e-12


@BACKENDS
@pytest.mark.parametrize("key", [1, 6])
def test_delta_rule_is_a_generalized_delta_rule(backend, key):
    inputs = cast(SAMPLES["kda"].inputs(**{**SIZES, "key": key}), torch.float64)
    q, k, v, beta, log_decay, state = inputs.values()
    written = beta[..., None] * k
    general = generalized_delta_rule(q, written, v, log_decay.exp() * k, -written, log_decay, state, scale=0.5, backend=backend)
    assert error(general, delta_rule(**inputs, scale=0.5, backend=backend)) <= 1e-12


@BACKENDS
def test_beta_two_reflects(backend):
    """With β = 2, unit keys and nothing to write, the state keeps its length and comes back after two equal steps."""
    inputs = cast(SAMPLES["delta_rule"].inputs(**SIZES), torch.float64)
    inputs |= {"v": torch.zeros_like(inputs["v"]), "beta": torch.full_like(inputs["beta"], 2)}
    inputs["k"] = inputs["k"][:, ::2].repeat_interleave(2, 1)
    _, final = delta_rule(**inputs, return_final_state=True, backend=backend)
    assert error(final, inputs["initial_state"]) <= 1e-12


@pytest.mark.parametrize("name", ["gated_delta_rule", "kda", "delta_product", "generalized_delta_rule"])
def test_strong_decays_do_not_blur_weak_ones(name):
    """Decays of e^-50 and e^-0.001 in one chunk: float32 loses no more than the loop does."""
    sample = SAMPLES[name]
    inputs = extreme_inputs(sample, torch.float32, **SIZES)
    exact = sample.gradients(cast(inputs, torch.float64), backend="reference")
    reference = sample.gradients(inputs, backend="reference")
    for key, value in sample.gradients(inputs, backend="chunkwise").items():
        assert error(value, exact[key]) <= BOUNDS[torch.float32] * error(reference[key], exact[key]) + 1e-6, key


@pytest.mark.parametrize("name", ["delta_rule", "kda", "delta_product", "generalized_delta_rule"])
def test_segments_change_nothing(name, monkeypatch):
    sample = SAMPLES[name]
    inputs = sample.inputs(**{**SIZES, "length": 150})
    whole = sample.gradients(inputs, backend="chunkwise")
    monkeypatch.setattr(sys.modules["visionrnn.kernels.delta_rule.chunkwise"], "SEGMENT", 1)
    agree(sample.gradients(inputs, backend="chunkwise"), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 8, 3)}, r"q: expected \[B, T, H, K\], got \[2, 8, 3\]"),
        ({"steps": 0}, "steps: expected 1 or more per token, got 0"),
        ({"steps": 3}, r"k: expected shape \[2, 12, 2, 3\], got \[2, 8, 2, 3\]"),
        ({"log_decay": torch.zeros(2, 8, 2)}, r"log_decay: expected shape \[2, 4, 2\], got \[2, 8, 2\]"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    inputs = cast(SAMPLES["delta_product"].inputs(length=4, key=3, value=5), torch.float32)
    with pytest.raises(ValueError, match=message):
        delta_rule(**{**inputs, "steps": 2, **change})
