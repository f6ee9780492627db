"""Every registered operator: shapes, causality, packing, gradients."""

from __future__ import annotations

import pytest
import torch

import visionrnn.operators  # noqa: F401
from visionrnn.backbones.lion import build_mixer
from visionrnn.registry import OPERATORS

CONFIGS = {name: {"type": name, "mixer": {"type": "mamba"}} if name == "bidirectional" else {"type": name} for name in OPERATORS}
CAUSAL = sorted(set(CONFIGS) - {"bidirectional"})
EVERY_OPERATOR = pytest.mark.parametrize("name", sorted(CONFIGS))


@EVERY_OPERATOR
@pytest.mark.parametrize("length", [1, 63, 100])
def test_shape_and_gradients(name, length):
    torch.manual_seed(0)
    operator = OPERATORS.build(CONFIGS[name], dim=16)
    x = torch.randn(2, length, 16, requires_grad=True)
    out = operator(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    gradients = {"x": x.grad, **{key: parameter.grad for key, parameter in operator.named_parameters()}}
    for key, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all(), key
        assert length == 1 or gradient.abs().max() > 0, key


@pytest.mark.parametrize("name", CAUSAL)
def test_is_causal(name):
    torch.manual_seed(0)
    operator = OPERATORS.build(CONFIGS[name], dim=16).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 25:] += 1
    before, after = operator(x), operator(changed)
    assert torch.allclose(before[:, :25], after[:, :25], atol=1e-12)
    assert not torch.allclose(before[:, 25:], after[:, 25:])


@pytest.mark.parametrize("name", CAUSAL)
def test_bidirectional_form_sees_both_ways(name):
    torch.manual_seed(0)
    mixer = build_mixer(CONFIGS[name], 16).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 25] += 1
    difference = (mixer(x) - mixer(changed)).abs().amax((0, 2))
    assert (difference > 1e-9).all()


@pytest.mark.parametrize("config", [*CONFIGS.values(), {"type": "mamba", "bidirectional": True, "d_conv": 3, "d_state": 5}], ids=str)
def test_packed_equals_separate(config):
    torch.manual_seed(0)
    operator = OPERATORS.build(config, dim=16).double()
    lengths = [7, 1, 30]
    x = torch.randn(1, sum(lengths), 16, dtype=torch.float64)
    boundaries = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    separate = torch.cat([operator(part) for part in x.split(lengths, 1)], 1)
    assert torch.allclose(operator(x, boundaries, 30), separate, atol=1e-12)


def test_starting_values_of_mamba():
    torch.manual_seed(0)
    operator = OPERATORS.build(dict(type="mamba", bidirectional=True, d_state=4), dim=32)
    ahead, back = operator.directions
    assert torch.allclose(ahead.A_log.exp(), torch.arange(1.0, 5.0).expand(64, 4))
    step = torch.nn.functional.softplus(ahead.dt_proj.bias)
    assert step.min() >= 1e-3 * 0.99 and step.max() <= 0.1 * 1.01
    assert torch.nn.functional.softplus(back.dt_proj.bias).min() > 0.2


def test_registry_names_what_is_wrong():
    with pytest.raises(KeyError, match="unknown operator 'mambo'; expected one of"):
        OPERATORS.build(dict(type="mambo"), dim=8)
    with pytest.raises(TypeError, match=r"operator 'mamba': .*'d_stat'; accepted options: \['dim', 'd_state'"):
        OPERATORS.build(dict(type="mamba", d_stat=8), dim=8)
    with pytest.raises(ValueError, match="registered already"):
        OPERATORS.register("mamba")(torch.nn.Identity)
    config = dict(type="mamba", d_state=4)
    OPERATORS.build(config, dim=8)
    assert config == dict(type="mamba", d_state=4)
