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
    dict(type="mamba2", num_heads=4, num_groups=2, d_conv=2, d_state=8),
    dict(type="retnet", rotary=False),
    dict(type="mlstm", gating="sigmoid", qkv_block=8),
    dict(type="hgrn", expand=2, lower_bound=0.5),
    dict(type="hgrn2", lower_bound=0.9),
    dict(type="mingru", positive=False),
    dict(type="minlstm", positive=False),
    dict(type="deltanet", d_conv=0, gate=True, negative_eigenvalues=True),
    dict(type="deltaproduct", steps=3, decay=False, expand_v=2),
    dict(type="rwkv4", depth=0.0),
    dict(type="rwkv6", depth=1.0),
    dict(type="rwkv7", depth=1.0, num_heads=2),
    dict(type="lru", d_state=7, radius=(0.9, 0.999)),
    dict(type="mom", mixer="mamba", num_memories=3, top_k=1, shared=False),
    dict(type="mom", mixer=dict(type="rwkv6"), num_memories=2),
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


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="hgrn", lower_bound=1.0), "lower_bound: expected"),
        (dict(type="mamba2", num_heads=4, num_groups=3), "num_groups=3 does not divide num_heads=4"),
        (dict(type="mlstm", qkv_block=5), "qkv_block=5"),
        (dict(type="mlstm", gating="soft"), "gating='soft'"),
        (dict(type="deltaproduct", steps=0), "steps: expected"),
        (dict(type="s4d", d_state=5), "d_state: expected an even"),
        (dict(type="lru", radius=(0.9, 0.1)), "radius: expected"),
        (dict(type="mom", top_k=5), "top_k: expected 1 to num_memories=4"),
        (dict(type="mom", mixer=dict(type="mamba", bidirectional=True)), "expected a causal operator"),
    ],
    ids=str,
)
def test_wrong_options_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        OPERATORS.build(config, dim=16)(torch.randn(1, 4, 16))


def test_starting_decays():
    torch.manual_seed(0)
    retnet, lru, mlstm, kda = (OPERATORS.build(name, dim=32) for name in ("retnet", "lru", "mlstm", "kda"))
    assert torch.allclose(retnet.log_decay.exp(), 1 - 2.0 ** -torch.arange(5.0, 9.0))
    radius = (-lru.nu_log.exp()).exp()
    assert radius.min() > 0 and radius.max() < 1
    assert torch.allclose(lru.gamma_log.exp() ** 2 + radius**2, torch.ones(32), atol=1e-5)
    assert torch.allclose(mlstm.gates.bias[4:], torch.linspace(3, 6, 4)) and not mlstm.gates.weight.any()
    assert kda.A_log.exp().min() >= 1 and kda.A_log.exp().max() <= 16
    s4d = OPERATORS.build("s4d", dim=4, d_state=8)
    assert torch.allclose(s4d.A_imag[0], torch.pi * torch.arange(4.0)) and torch.allclose(s4d.A_real_log.exp(), torch.tensor(0.5))


def test_retention_turns_with_position():
    """The rotation depends on distances only: a shifted start changes nothing but the state's frame."""
    torch.manual_seed(0)
    operator = OPERATORS.build("retnet", dim=16).double()
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    heads, width = operator.num_heads, operator.value_width
    later = {"position": torch.tensor([1000]), "memory": torch.zeros(1, heads, operator.key_width, width, dtype=torch.float64)}
    assert error(operator.stream(x, later)[0], operator(x)) < 1e-9


def test_mixture_keeps_memories_apart():
    """A token changes only those later tokens that share a memory with it."""
    torch.manual_seed(0)
    operator = OPERATORS.build("mom", dim=16, mixer="mingru", num_memories=4, top_k=1, shared=False).double()
    x = torch.randn(1, 60, 16, dtype=torch.float64)
    memory = operator.route(x)[0][0, :, 0]
    changed = x.clone()
    changed[:, 5] *= 1.5  # the router's choice stays
    moved = (operator(x) - operator(changed))[0].abs().amax(-1) > 1e-14
    assert torch.equal(moved[5:], memory[5:] == memory[5]) and not moved[:5].any()


def test_time_scales_are_spared_from_weight_decay():
    spared = {
        name: {key for key, parameter in OPERATORS.build(name, dim=16).named_parameters() if getattr(parameter, "_no_weight_decay", False)}
        for name in ("mamba", "mamba2", "gated_deltanet", "kda", "lru", "s4d", "rwkv4", "rwkv6")
    }
    assert spared == {
        "mamba": {"directions.0.A_log", "directions.0.D"},
        "mamba2": {"dt_bias", "A_log", "D"},
        "gated_deltanet": {"decay.A_log", "decay.bias"},
        "kda": {"A_log", "decay_bias"},
        "lru": {"nu_log", "theta_log", "gamma_log"},
        "s4d": {"dt_log", "A_real_log", "A_imag"},
        "rwkv4": {"decay", "bonus"},
        "rwkv6": {"decay", "bonus"},
    }
