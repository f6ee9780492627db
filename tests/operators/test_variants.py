"""Options and starting values of single operators."""

from __future__ import annotations

import pytest
import torch

import visionrnn.operators  # noqa: F401
from visionrnn.registry import OPERATORS
from visionrnn.testing import error

CONFIGS = [
    dict(type="mamba", bidirectional=True, d_conv=3, d_state=5),
    dict(type="mamba", d_conv=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_packed_equals_separate(config):
    torch.manual_seed(0)
    operator, lengths = OPERATORS.build(config, dim=16).double(), [7, 1, 30]
    x = torch.randn(1, sum(lengths), 16, dtype=torch.float64)
    boundaries = torch.tensor([0, *lengths]).cumsum(0)
    separate = torch.cat([operator(part) for part in x.split(lengths, 1)], 1)
    assert error(operator(x, boundaries, 30), separate) < 1e-11


@pytest.mark.parametrize("config", [config for config in CONFIGS if not config.get("bidirectional")], ids=str)
def test_parts_equal_the_whole(config):
    torch.manual_seed(0)
    operator = OPERATORS.build(config, dim=16).double()
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    first, state = operator.stream(x[:, :11])
    assert error(torch.cat([first, operator.stream(x[:, 11:], state)[0]], 1), operator(x)) < 1e-11


def test_starting_values_of_mamba():
    torch.manual_seed(0)
    operator = OPERATORS.build(dict(type="mamba", bidirectional=True, d_state=4), dim=32)
    ahead, back = operator.directions
    assert torch.allclose(ahead.A_log.exp(), torch.arange(1.0, 5.0).expand(64, 4))
    step = torch.nn.functional.softplus(ahead.dt_proj.bias)
    assert step.min() >= 1e-3 * 0.99 and step.max() <= 0.1 * 1.01
    assert torch.nn.functional.softplus(back.dt_proj.bias).min() > 0.2
