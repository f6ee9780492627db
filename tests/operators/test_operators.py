"""What every registered operator owes: the checks run over the registry, so that a new name is checked by itself."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import visionrnn.operators  # noqa: F401
from visionrnn.backbones.blocks.residual import build_mixer
from visionrnn.kernels.recurrence import Recurrence
from visionrnn.registry import OPERATORS
from visionrnn.testing import error

DIM, LENGTH = 16, 37
LENGTHS = [7, 0, 1, 29]  # of packed sequences
GATES = ("decay", "delta", "gate", "beta", "rate", "dt")  # in the names of arguments that a half type would spoil


def configs() -> dict[str, dict]:
    """A config of every registered operator; those that wrap another one without naming it get Mamba."""
    found = {}
    for name in OPERATORS:
        mixer = inspect.signature(OPERATORS.get(name)).parameters.get("mixer")
        found[name] = {"type": name, **({"mixer": "mamba"} if mixer and mixer.default is mixer.empty else {})}
    return found


NAMES = sorted(configs())
CAUSAL = [name for name in NAMES if OPERATORS.get(name).causal]
HEADS = [name for name in NAMES if "num_heads" in inspect.signature(OPERATORS.get(name)).parameters]
EVERY = pytest.mark.parametrize("name", NAMES)
EVERY_CAUSAL = pytest.mark.parametrize("name", CAUSAL)


def build(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """The operator with its starting values moved a little, so that what starts at zero takes part."""
    torch.manual_seed(seed)
    operator = OPERATORS.build(configs()[name], dim=DIM)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return operator.to(dtype)


def inputs(batch: int = 2, length: int = LENGTH, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@EVERY
@pytest.mark.parametrize("length", [1, 63])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_shape_and_gradients(name, length, dtype):
    operator, x = build(name, dtype), inputs(length=length, dtype=dtype).requires_grad_()
    out = operator(x)
    assert out.shape == x.shape and out.dtype == dtype
    out.square().sum().backward()
    gradients = {"x": x.grad, **{key: parameter.grad for key, parameter in operator.named_parameters()}}
    for key, gradient in gradients.items():
        if length == 1 and gradient is None:
            continue  # e.g. a decay, where there is no past
        assert gradient is not None and gradient.isfinite().all(), key
        assert length == 1 or gradient.abs().max() > 0, key


@EVERY
def test_starting_values_train(name):
    """As built, without noise: the output is neither zero nor large, and gradients are finite."""
    torch.manual_seed(0)
    operator, x = OPERATORS.build(configs()[name], dim=DIM), inputs(dtype=torch.float32).requires_grad_()
    out = operator(x)
    out.square().sum().backward()
    assert 0 < out.detach().std() < 10 and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in operator.parameters())


@EVERY_CAUSAL
def test_is_causal(name):
    operator, x = build(name), inputs()
    changed = x.clone()
    changed[:, 25:] += 1
    before, after = operator(x), operator(changed)
    assert error(after[:, :25], before[:, :25]) < 1e-12
    assert error(after[:, 25:], before[:, 25:]) > 1e-6


@EVERY_CAUSAL
def test_bidirectional_form_sees_both_ways(name):
    torch.manual_seed(0)
    mixer, x = build_mixer(configs()[name], DIM).double(), inputs(1)
    changed = x.clone()
    changed[:, 18] += 1
    difference = (mixer(x) - mixer(changed)).abs().amax((0, 2))
    assert (difference > 1e-12).all()
    separate = torch.cat([mixer(part) for part in x.split(LENGTHS, 1) if part.shape[1]], 1)
    assert error(mixer(x, torch.tensor([0, *LENGTHS]).cumsum(0), max(LENGTHS)), separate) < 1e-11


@EVERY
def test_packed_equals_separate(name):
    operator, x = build(name), inputs(1).requires_grad_()
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0)
    packed = operator(x, boundaries, max(LENGTHS))
    separate = torch.cat([operator(part) for part in x.split(LENGTHS, 1) if part.shape[1]], 1)
    assert error(packed, separate) < 1e-11
    gradients = [torch.autograd.grad(out.square().sum(), [x, *operator.parameters()]) for out in (packed, separate)]
    for got, expected in zip(*gradients, strict=True):
        assert error(got, expected) < 1e-9


@EVERY_CAUSAL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_parts_equal_the_whole(name, dtype):
    operator, x = build(name, dtype), inputs(dtype=dtype)
    whole, last = operator.stream(x)
    parts, state = [], None
    for part in x.split([10, 1, 2, 24], 1):
        out, state = operator.stream(part, state)
        parts.append(out)
    bound = 1e-11 if dtype == torch.float64 else 1e-4
    assert error(operator(x), whole) < bound and error(torch.cat(parts, 1), whole) < bound
    assert state.keys() == last.keys()
    for key, value in last.items():
        assert error(state[key], value) < bound, key


@EVERY_CAUSAL
def test_steps_equal_the_whole(name):
    operator, x, state, outs = build(name), inputs(length=20), None, []
    for x_t in x.unbind(1):
        out, state = operator.step(x_t, state)
        assert all(len(value) == len(x) for value in state.values())
        outs.append(out)
    assert error(torch.stack(outs, 1), operator(x)) < 1e-11


@EVERY_CAUSAL
def test_packed_sequences_go_on(name):
    """The states of packed sequences, one row each, are what separate sequences leave."""
    operator, x = build(name), inputs(1)
    boundaries = torch.tensor([0, 12, 13, LENGTH])
    _, state = operator.mix(x, None, boundaries, 24)
    out, _ = operator.mix(x.flip(1), state, boundaries, 24)
    for i, (start, stop) in enumerate(zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True)):
        _, alone = operator.stream(x[:, start:stop])
        for key, value in alone.items():
            assert error(state[key][i : i + 1], value) < 1e-11, key
        assert error(out[:, start:stop], operator.stream(x.flip(1)[:, start:stop], alone)[0]) < 1e-11


@EVERY
def test_float32_is_close_to_float64(name):
    exact, out = build(name)(inputs()), build(name, torch.float32)(inputs(dtype=torch.float32))
    assert error(out, exact) < 1e-4


@EVERY
def test_half_weights_and_large_or_no_inputs(name):
    operator, x = build(name, torch.float32), inputs(dtype=torch.float32)
    for scaled in (0 * x, 1000 * x):
        scaled.requires_grad_()
        out = operator(scaled)
        assert out.isfinite().all() and torch.autograd.grad(out.mean(), scaled)[0].isfinite().all()
    assert operator(x[:, :0]).shape == (2, 0, DIM)
    assert operator(x[:1, :0], torch.tensor([0, 0, 0]), 0).shape == (1, 0, DIM)
    expected = operator(x)
    half = operator.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16 and error(half, expected) < 0.2


@EVERY
def test_autocast_keeps_gates_and_states_wide(name, monkeypatch):
    seen, checked = [], Recurrence.checked

    def recorded(self, argument, value, *how):
        if value is not None and any(word in argument for word in GATES):
            seen.append((argument, value.dtype))
        return checked(self, argument, value, *how)

    monkeypatch.setattr(Recurrence, "checked", recorded)
    operator, x = build(name, torch.float32), inputs(dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = operator(x)
        states = operator.stream(x)[1] if operator.causal else {}
    out.float().square().sum().backward()
    assert error(out, operator(x)) < 0.2 and x.grad.isfinite().all()
    assert all(dtype in (torch.float32, torch.complex64) for _, dtype in seen), seen
    assert all(value.dtype in (torch.float32, torch.complex64, torch.int64) for value in states.values())


@EVERY
def test_weights_round_trip(name):
    one, other = build(name, seed=0), build(name, seed=1)
    assert error(other(inputs()), one(inputs())) > 1e-6
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(inputs()), one(inputs()))


@EVERY
def test_options(name):
    arguments = inspect.signature(OPERATORS.get(name)).parameters
    assert next(iter(arguments)) == "dim" and len(arguments) <= 10
    with pytest.raises(TypeError, match=rf"operator '{name}': .*'unheard_of'; accepted options: \['dim'"):
        OPERATORS.build({**configs()[name], "unheard_of": 1}, dim=DIM)


@pytest.mark.parametrize("name", HEADS)
def test_heads_divide_the_channels(name):
    OPERATORS.build({"type": name, "num_heads": 2}, dim=DIM)
    with pytest.raises(ValueError, match=r"dim=17.*num_heads=4"):
        OPERATORS.build({"type": name, "num_heads": 4}, dim=17)


@pytest.mark.parametrize("name", sorted({name for name in CAUSAL if "backend" in inspect.signature(OPERATORS.get(name)).parameters}))
def test_backend_reaches_the_kernel(name):
    exact = build(name)
    operator = OPERATORS.build({**configs()[name], "backend": "reference"}, dim=DIM).double()
    operator.load_state_dict(exact.state_dict())
    assert error(operator(inputs()), exact(inputs())) < 1e-10
    with pytest.raises(ValueError, match="backend='none'"):
        OPERATORS.build({**configs()[name], "backend": "none"}, dim=DIM)(inputs(dtype=torch.float32))


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


def test_only_causal_operators_run_in_parts():
    for config in (dict(type="bidirectional", mixer="mamba"), dict(type="mamba", bidirectional=True)):
        with pytest.raises(ValueError, match="looks ahead"):
            OPERATORS.build(config, dim=DIM).stream(inputs(dtype=torch.float32))
    with pytest.raises(ValueError, match="expected a causal operator"):
        OPERATORS.build(dict(type="bidirectional", mixer=dict(type="mamba", bidirectional=True)), dim=DIM)


@EVERY
def test_activation_checkpointing(name):
    """Computed again in the backward pass: the same gradients. A backward may read its saved tensors only once then."""
    operator = build(name, torch.float32)
    x = torch.randn(2, LENGTH, DIM, requires_grad=True)
    wanted = [x, *operator.parameters()]
    plain = torch.autograd.grad(operator(x).square().sum(), wanted, allow_unused=True)
    again = torch.autograd.grad(checkpoint(operator, x, use_reentrant=False).square().sum(), wanted, allow_unused=True)
    for a, b in zip(plain, again, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
