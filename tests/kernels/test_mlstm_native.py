"""The C++ mLSTM: what the shared suite does not look at."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import same_bits_on_threads

from visionrnn.kernels import available_backends, mlstm
from visionrnn.kernels.gated_linear import native_mlstm
from visionrnn.testing import BOUNDS, SAMPLES, error

pytestmark = pytest.mark.skipif("native" not in available_backends("gated_linear", device="cpu"), reason="the native library was not built")


def inputs(length, key, value, heads=2, batch=1, seed=0, **gates):
    return SAMPLES["mlstm"].inputs(batch=batch, length=length, heads=heads, key=key, value=value, seed=seed) | gates


def run(given, dtype=torch.float32, **options):
    """Output, final states and gradients."""
    return SAMPLES["mlstm"].gradients({name: value.detach().to(dtype) for name, value in given.items()}, **options)


def check(given, **options):
    """Native float32 against the reference in float64, within a few times the reference's own rounding."""
    exact, reference = (run(given, dtype, backend="reference", **options) for dtype in (torch.float64, torch.float32))
    for name, value in run(given, backend="native", **options).items():
        assert error(value, exact[name]) <= BOUNDS[torch.float32] * error(reference[name], exact[name]) + 1e-6, name


@pytest.mark.parametrize(("key", "value"), [(4, 4), (12, 20), (96, 96), (7, 97), (192, 192), (3, 1)])
@pytest.mark.parametrize(("length", "reverse"), [(1, False), (64, False), (150, True)])
def test_every_width(key, value, length, reverse):
    """Whole and partial vectors, groups, chunks."""
    check(inputs(length, key, value), reverse=reverse)


def test_kept_states():
    """Several of them, of several chunks each, and sequences that need fewer than there is room for."""
    assert native_mlstm.keep_every(8) == 128 and native_mlstm.keep_every(192) == 256
    given = inputs(530, 8, 8, batch=1)
    states = {name: given[name].expand(4, *given[name].shape[1:]) for name in ("C", "n", "m")}
    check(given | states, cu_seqlens=torch.tensor([0, 129, 129, 400, 530]))


@pytest.mark.parametrize("level", [-12.0, 0.0, 40.0])
def test_gates_far_from_zero(level):
    """A forget gate that closes and one that stays open, input gates that make e^{i - m} vanish or m grow."""
    given = inputs(140, 12, 12)
    with torch.no_grad():
        given["forget_gate"].add_(level)
        given["input_gate"].mul_(20)
    check(given)


def test_a_forget_gate_of_minus_infinity_forgets():
    given = {name: value.detach().float() for name, value in inputs(20, 6, 5).items()}
    given["forget_gate"][:, 9] = -torch.inf
    state = tuple(given.pop(name) for name in ("C", "n", "m"))
    whole = mlstm(**given, initial_state=state, backend="native")
    later = mlstm(**{name: value[:, 9:] for name, value in given.items()}, backend="native")
    assert whole.isfinite().all() and error(whole[:, 9:], later) <= 2e-6


@pytest.mark.parametrize("gating", ["exp", "sigmoid"])
@pytest.mark.parametrize("gate", ["input_gate", "forget_gate"])
def test_a_gate_that_is_no_number_is_not_hidden(gate, gating):
    given = {name: value.detach().float() for name, value in inputs(140, 6, 5).items() if name not in "Cnm"}
    given[gate][:, 9, 1] = torch.nan
    h, states = mlstm(**given, gating=gating, return_final_state=True, backend="native")
    assert h[:, 9:, 1].isnan().all() and states[0][:, 1].isnan().all() and states[1][:, 1].isnan().all()
    assert h[:, :9].isfinite().all() and h[:, :, 0].isfinite().all() and states[0][:, 0].isfinite().all()


def test_results_do_not_depend_on_threads_or_the_rest_of_a_batch():
    given = inputs(200, 24, 24, batch=3)
    found = same_bits_on_threads(lambda: run(given, backend="native"))
    alone = run({name: value[1:2] for name, value in given.items()}, backend="native")
    assert all(torch.equal(value, found[name][1:2]) for name, value in alone.items())


def test_packed_and_separate_runs_agree_in_every_bit():
    given = {name: value.detach().float() for name, value in inputs(210, 24, 24).items()}
    timed = {name: value for name, value in given.items() if name not in "Cnm"}
    packed = mlstm(**timed, cu_seqlens=torch.tensor([0, 70, 70, 71, 210]), backend="native")
    for start, stop in ((0, 70), (70, 71), (71, 210)):
        assert torch.equal(packed[:, start:stop], mlstm(**{name: value[:, start:stop] for name, value in timed.items()}, backend="native"))


@pytest.mark.parametrize("lengths", [[150], [0], [5, 0, 30]], ids=str)
@pytest.mark.parametrize("stateful", [False, True])
def test_custom_ops_keep_their_promises(lengths, stateful):
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    q, k, v = torch.randn(3, 1, int(bounds[-1]), 2, 6).unbind(0)
    states = [torch.randn(len(lengths), 2, *shape) if stateful else None for shape in ((6, 6), (6,), ())]
    given = [q, k, v, torch.randn(1, int(bounds[-1]), 4), *states]
    given = [None if value is None else value.clone().requires_grad_() for value in given]
    torch.library.opcheck(torch.ops.visionrnn.mlstm, (*given, bounds, 0.5, 1e-6, True, True, False, True, True))
