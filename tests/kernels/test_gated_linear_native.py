"""The C++ back end of the gated linear family: what the shared suite does not look at."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import same_bits_on_threads

from visionrnn.kernels import available_backends, gated_linear_attention
from visionrnn.testing import BOUNDS, error

pytestmark = pytest.mark.skipif("native" not in available_backends("gated_linear", device="cpu"), reason="the native library was not built")


def inputs(length, heads, key, value, decay, bonus, batch=1, seed=0, dtype=torch.float64):
    """q, k, v, log_decay (of `decay` dimensions: 0 none, 3, 4), initial_state, bonus; requiring gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    timed = {name: draw(batch, length, heads, width) for name, width in (("q", key), ("k", key), ("v", value))}
    if decay:
        timed["log_decay"] = -draw(*(batch, length, heads, key)[:decay]).abs()
    others = {"initial_state": draw(batch, heads, key, value)} | ({"bonus": draw(heads, key)} if bonus else {})
    return {name: given.to(dtype).requires_grad_() for name, given in (timed | others).items()}


def run(given, **options):
    """Output, final state and gradients of a fixed scalar of both."""
    given = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    out, state = gated_linear_attention(**given, return_final_state=True, **options)
    gradients = torch.autograd.grad((out * out).sum() + (state * state).sum(), list(given.values()))
    return {"out": out, "state": state, **{f"d {name}": gradient for name, gradient in zip(given, gradients, strict=True)}}


def check(given, **options):
    """Native float32 against the reference in float64, within a few times the reference's own rounding."""
    narrow = {name: tensor.detach().float() for name, tensor in given.items()}
    exact, reference = (run(values, backend="reference", **options) for values in (given, narrow))
    for name, value in run(narrow, backend="native", **options).items():
        assert error(value, exact[name]) <= BOUNDS[torch.float32] * error(reference[name], exact[name]) + 1e-6, name


@pytest.mark.parametrize(
    ("key", "value"), [(8, 8), (12, 20), (20, 12), (64, 64), (64, 65), (65, 33), (7, 96), (96, 97), (3, 1), (130, 128), (16, 256)]
)
@pytest.mark.parametrize(("decay", "bonus"), [(0, False), (3, False), (4, False), (4, True)])
def test_every_width(key, value, decay, bonus):
    """Whole and partial vectors, one and several parts of v's columns, tails of chunks and of kept states."""
    check(inputs(77, 2, key, value, decay, bonus), reverse=key == 65)


@pytest.mark.parametrize("decay", [3, 4])
@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("gate", [0.0, -50.0, "mixed"])
def test_gates_at_their_limits(decay, bonus, gate):
    given = inputs(140, 2, 20, 24, decay, bonus)
    shape = given["log_decay"].shape
    gates = torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5, 0.0, -50.0) if gate == "mixed" else gate
    with torch.no_grad():
        given["log_decay"].copy_(torch.as_tensor(gates).expand(shape))
    check(given)


def test_a_decay_of_minus_infinity_forgets():
    """The smallest factor is 2^-126, which no finite state survives visibly."""
    given = inputs(20, 2, 6, 5, 4, False, dtype=torch.float32)
    with torch.no_grad():
        given["log_decay"][:, 9] = -torch.inf
    got = run(given, backend="native")
    later = {name: value if name == "initial_state" else value[:, 9:] for name, value in given.items()}
    want = run(later | {"initial_state": torch.zeros_like(given["initial_state"])}, backend="native")
    assert all(value.isfinite().all() for value in got.values())
    assert error(got["out"][:, 9:], want["out"]) <= 1e-6 and error(got["state"], want["state"]) <= 1e-6


def test_results_do_not_depend_on_the_number_of_threads():
    given = inputs(70, 3, 64, 130, 4, True, batch=3, dtype=torch.float32)
    same_bits_on_threads(lambda: run(given, backend="native"))


@pytest.mark.parametrize(("decay", "bonus"), [(0, True), (3, False), (4, False), (4, True)])
@pytest.mark.parametrize("boundaries", [[0, 9], [0, 0, 5, 5, 9], [0]])
def test_custom_ops_keep_their_promises(decay, bonus, boundaries):
    given = inputs(boundaries[-1], 2, 5, 3, decay, bonus, dtype=torch.float32)
    state = torch.randn(len(boundaries) - 1, 2, 5, 3, requires_grad=True)
    arguments = [given.get(name) for name in ("q", "k", "v", "log_decay", "bonus")]
    torch.library.opcheck(torch.ops.visionrnn.gated_linear, (*arguments, state, torch.tensor(boundaries), 0.5, False, True))
    x = torch.randn(1, boundaries[-1], 3)
    maximum = (x, -torch.rand_like(x), torch.randn(len(boundaries) - 1, 3), torch.tensor(boundaries), True)
    torch.library.opcheck(torch.ops.visionrnn.max_plus_scan, maximum)


def test_memory_for_the_backward_is_small():
    """One state in 64 steps is kept, none without gradients."""
    given = inputs(640, 2, 16, 16, 4, False, dtype=torch.float32)
    arguments = [given.get(name) for name in ("q", "k", "v", "log_decay", "bonus", "initial_state")]
    for keep, states in ((True, 11), (False, 0)):
        *_, kept = torch.ops.visionrnn.gated_linear(*arguments, torch.tensor([0, 640]), 1.0, False, keep)
        assert kept.numel() == states * 2 * 16 * 16
