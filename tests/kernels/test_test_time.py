"""What is special to test-time regressions: the inner gradient, rates of zero, decays of zero, their own arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recurrence_checks import cast

from visionrnn.kernels import available_backends, titans_linear, ttt_linear, ttt_mlp
from visionrnn.testing import SAMPLES, error


def learned_by_autograd(sample, inputs, mini_batch_size):
    """The definition with torch's own gradient of the inner loss: (o, *states), differentiable again."""
    names = sample.states
    o, states = [], tuple(inputs[name] for name in names)
    scales = 1 / torch.arange(1, mini_batch_size + 1, dtype=torch.float64)

    def norm(z):  # [B, H, D]
        return F.layer_norm(z, z.shape[-1:], eps=1e-6) * inputs["norm_weight"] + inputs["norm_bias"]

    def model(x, states):
        *hidden, weight, bias = states
        if hidden:
            x = F.gelu(torch.einsum("bhk,bhkv->bhv", x, hidden[0]) + hidden[1], approximate="tanh")
        return torch.einsum("bhk,bhkv->bhv", x, weight) + bias

    for t in range(inputs["q"].shape[1]):
        position = t % mini_batch_size
        if position == 0:
            start, total = states, None
        q, k, v, rate = (inputs[name][:, t] for name in ("q", "k", "v", "learning_rate"))
        loss = 0.5 * (rate * (norm(model(k, start)) - (v - k)).square().sum(-1)).sum()
        gradients = torch.autograd.grad(loss, start, create_graph=True)
        total = gradients if total is None else tuple(a + b for a, b in zip(total, gradients, strict=True))
        states = tuple(a - scales[position] * b for a, b in zip(start, total, strict=True))
        o.append(q + norm(model(q, states)))
    return torch.stack(o, 1), *states


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp"])
@pytest.mark.parametrize("backend", ["reference", "chunkwise"])
def test_inner_gradient_is_that_of_the_inner_loss(name, backend):
    sample = SAMPLES[name]
    inputs = {key: value for key, value in sample.inputs(length=11, heads=2, key=6, value=10).items() if key != "token_scale"}
    inputs = {key: value.detach().requires_grad_() for key, value in inputs.items()}
    want = learned_by_autograd(sample, inputs, 4)
    out, states = sample.call(**inputs, mini_batch_size=4, backend=backend, return_final_state=True)
    for got, value in zip((out, *states), want, strict=True):
        assert error(got, value) <= 1e-12
    leaves = list(inputs.values())
    gradients = (torch.autograd.grad(sum(value.square().sum() for value in found), leaves) for found in ((out, *states), want))
    for key, got, value in zip(inputs, *gradients, strict=True):
        assert error(got, value) <= 1e-11, key


@pytest.mark.parametrize("backend", [name for name in available_backends("delta_rule", "ttt_linear", "cpu") if name != "reference"])
def test_a_rate_of_zero_is_a_step_like_any_other(backend):
    """It adds nothing, but what was learned before it is scaled by its position."""
    inputs = cast(SAMPLES["ttt_linear"].inputs(length=21), torch.float32)
    inputs["learning_rate"][:, 18:] = 0
    want, states = SAMPLES["ttt_linear"].run(inputs, backend="reference")
    got, found = SAMPLES["ttt_linear"].run(inputs, backend=backend)
    for value, expected in zip((got, *found), (want, *states), strict=True):
        assert error(value, expected) <= 1e-5


@pytest.mark.parametrize("backend", [name for name in available_backends("delta_rule", "titans_linear", "cpu") if name != "reference"])
def test_titans_forgets_all_at_once(backend):
    """Momentum and memory may be dropped altogether at a step: no decay is divided by."""
    sample = SAMPLES["titans_linear"]
    inputs = cast(sample.inputs(length=70, key=5, value=3), torch.float32)
    inputs["eta"][:, ::3], inputs["alpha"][:, ::4] = 0, 1
    want, got = (sample.gradients(inputs, backend=name) for name in ("reference", backend))
    for name, value in got.items():
        assert error(value, want[name]) <= 2e-5, name


def test_negative_token_scales_count_as_zero():
    inputs = SAMPLES["ttt_linear"].inputs(length=16)
    scale = inputs.pop("token_scale").detach().clone()
    outs = []
    for value in (-1.0, 0.0):
        scale[3::4] = value
        outs.append(SAMPLES["ttt_linear"].run(inputs, token_scale=scale)[0])
    assert torch.equal(*outs)


def test_wrong_arguments_of_their_own():
    inputs = {name: value for name, value in SAMPLES["ttt_linear"].inputs(length=3).items() if name != "token_scale"}
    weight, bias = inputs.pop("weight"), inputs.pop("bias")
    for call, message in (
        (lambda: ttt_linear(**inputs, initial_state=(weight, bias), form="papr"), "form='papr'; expected one of"),
        (lambda: ttt_linear(**inputs, initial_state=(weight, bias), mini_batch_size=0), "mini_batch_size=0; expected at least 1"),
        (lambda: ttt_linear(**inputs, initial_state=(weight, bias), token_scale=weight[0, 0, 0]), r"token_scale: expected shape \[16\]"),
        (lambda: ttt_linear(**inputs, initial_state=weight), "initial_state: expected a tuple of 2 tensors"),
        (lambda: ttt_mlp(**inputs, initial_state=(weight, bias)), "initial_state: expected a tuple of 4 tensors"),
        (lambda: titans_linear(*(inputs[name] for name in "qkv"), *[inputs["learning_rate"]] * 3, (weight,)), "a tuple of 2 tensors"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
