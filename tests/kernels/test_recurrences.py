"""Every form of every recurrence on every back end: the same checks for all; a new sample or back end is tested by itself."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import cast, check_agreement, extreme_inputs, flip, joined, packed_inputs, pairs, samples, scattered, time_slice
from torch import Tensor

from visionrnn.testing import BOUNDS, error


def bound(sample, backend) -> float:
    """For runs that should do the same arithmetic: none for the native back end, but for what torch does around it."""
    return (0 if sample.exact else 1e-6) if backend == "native" else 1e-12


@pairs("reference")
@pytest.mark.parametrize(("length", "heads", "key", "value"), [(0, 1, 4, 4), (1, 3, 8, 12), (63, 1, 8, 12), (65, 3, 9, 5)])
def test_agrees_with_reference(sample, backend, length, heads, key, value):
    sizes = dict(batch=2, length=length, heads=heads, key=key, value=value)
    check_agreement(sample, backend, torch.float32, **sizes)
    if backend != "native":
        check_agreement(sample, backend, torch.float64, **sizes)


@pytest.mark.slow
@pairs("reference")
@pytest.mark.parametrize("length", [1, 2, 7, 16, 63, 64, 65, 196, 1000])
@pytest.mark.parametrize(("heads", "key", "value"), [(1, 16, 24), (3, 33, 20)])
def test_agrees_with_reference_at_many_lengths(sample, backend, length, heads, key, value):
    sizes = dict(batch=1, length=length, heads=heads, key=key, value=value)
    check_agreement(sample, backend, torch.float32 if backend == "native" else torch.float64, **sizes)


@pairs()
def test_reverse_is_flip_run_flip(sample, backend):
    length, dtype = 21, torch.float32 if backend == "native" else torch.float64
    inputs = sample.inputs(length=length, heads=2, key=5, value=7, dtype=dtype)
    flipped = {name: flip(sample, name, given, length) if isinstance(given, Tensor) else given for name, given in inputs.items()}
    got = sample.gradients(inputs, backend=backend, reverse=True)
    want = sample.gradients(flipped, backend=backend)
    for name, value in got.items():
        assert error(value, flip(sample, name, want[name], length)) <= bound(sample, backend), name


@pairs()
@pytest.mark.parametrize("lengths", [[1, 17, 0, 30, 4], [30, 4, 17, 1, 0]], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
def test_packed_equals_separate(sample, backend, lengths, reverse):
    """Native: the same bits, but for parameters, whose gradients are sums over sequences."""
    native = backend == "native"
    inputs, boundaries, parts = packed_inputs(sample, lengths, torch.float32 if native else torch.float64)
    options = dict(backend=backend, reverse=reverse)
    packed = sample.gradients(inputs, cu_seqlens=boundaries, max_seqlen=None if reverse else 32, **options)
    want = joined(sample, [sample.gradients(part, **options) for part in parts])
    for name, value in packed.items():
        of_a_sequence = not name.startswith("d ") or name[2:] in (*sample.timed, *sample.states)
        assert error(value, want[name]) <= (bound(sample, backend) if of_a_sequence else max(2e-6 * native, 1e-12)), name


@pairs(stateful=True)
def test_split_run_equals_whole(sample, backend):
    length, dtype = 50, torch.float32 if backend == "native" else torch.float64
    inputs = sample.inputs(length=length, heads=2, key=5, value=7, dtype=dtype)
    whole, last = sample.run(inputs, backend=backend)
    split = 16  # a whole number of the mini-batches of test-time training
    first, carried = sample.run(time_slice(sample, inputs, 0, split, length), backend=backend)
    rest = time_slice(sample, inputs, split, length, length) | dict(zip(sample.states, carried, strict=True))
    second, states = sample.run(rest, backend=backend)
    allowed = 1e-5 if dtype == torch.float32 else 1e-12
    assert error(torch.cat([first, second], 1), whole) <= allowed
    for state, want in zip(states, last, strict=True):
        assert error(state, want) <= allowed


@pairs("native")
def test_gradcheck(sample, backend):
    inputs = sample.inputs(batch=1, length=4, heads=1, key=3, value=2)
    names = [name for name, given in inputs.items() if isinstance(given, Tensor)]

    def wrapped(*values: Tensor):
        out, states = sample.run({**inputs, **dict(zip(names, values, strict=True))}, backend=backend)
        return out, *states

    assert torch.autograd.gradcheck(wrapped, tuple(inputs[name] for name in names))


@pairs()
def test_extreme_gates_stay_finite(sample, backend):
    inputs = extreme_inputs(sample, torch.float32, length=70, heads=2, key=4, value=6)
    for name, value in sample.gradients(inputs, backend=backend).items():
        assert torch.view_as_real(value).isfinite().all() if value.is_complex() else value.isfinite().all(), name


@pytest.mark.slow
@pairs("reference")
def test_a_million_steps_stay_finite(sample, backend):
    inputs = sample.inputs(batch=1, length=1_000_000, heads=1, key=4, value=4, dtype=torch.float32)
    with torch.no_grad():
        out, states = sample.run(inputs, backend=backend)
    for value in (out, *states):
        assert torch.view_as_real(value).isfinite().all() if value.is_complex() else value.isfinite().all()


@pairs()
def test_memory_layout_does_not_matter(sample, backend):
    dtype = torch.float32 if backend == "native" else torch.float64
    inputs = sample.inputs(length=19, heads=3, key=5, value=7, dtype=dtype)
    want = sample.gradients(inputs, backend=backend)
    allowed = 1e-6 if dtype == torch.float32 else 1e-13
    for name, value in sample.gradients(scattered(inputs), backend=backend).items():
        assert error(value, want[name]) <= allowed, name


@samples(real=True)  # there is no complex half type
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_computed_in_float32(sample, dtype):
    inputs = cast(sample.inputs(length=40, heads=2, key=8, value=8), dtype)
    exact, _ = sample.run(cast(inputs, torch.float64), backend="reference")
    out, states = sample.run(inputs)
    assert out.dtype == dtype
    assert all(state.dtype == torch.float32 for state in states)
    assert error(out, exact) <= BOUNDS[dtype] * torch.finfo(dtype).eps


@samples()
@pytest.mark.parametrize("fault", ["shape", "dtype", "device"])
def test_wrong_arguments_are_named(sample, fault):
    inputs = cast(sample.inputs(length=5, heads=2, key=3, value=4), torch.float32)
    for name, given in inputs.items():
        free = fault == "shape" and name == "v" and not sample.states  # any width of v is a right one where no state has it
        if not isinstance(given, Tensor) or free:
            continue
        wrong = {
            "shape": given[..., :-1],
            "dtype": given.long() if not given.is_complex() else given.real.long(),
            "device": given.to("meta"),
        }
        with pytest.raises(ValueError, match="expected") as caught:
            sample.run({**inputs, name: wrong[fault]})
        if fault != "shape" and name not in sample.states:  # a wrong shape of one may show as another's, a state is part of initial_state
            assert name in str(caught.value), f"{name}: {caught.value}"


@samples()
def test_unknown_options_and_backends_are_refused(sample):
    inputs = cast(sample.inputs(length=5), torch.float32)
    with pytest.raises(TypeError, match="chunk"):
        sample.run(inputs, chunk=3)
    with pytest.raises(ValueError, match=r"backend='fast'; expected 'auto' or one of \["):
        sample.run(inputs, backend="fast")


@samples("native")
def test_native_refuses_double_precision(sample):
    with pytest.raises(ValueError, match=r"backend='native' computes in torch.float32 on cpu, got torch.float64"):
        sample.run(sample.inputs(length=3), backend="native")


@samples()
@pytest.mark.parametrize("boundaries", [[0, 5], [1, 9], [0, 6, 4, 9]], ids=str)
def test_wrong_boundaries_are_named(sample, boundaries):
    inputs = cast(sample.inputs(batch=1, length=9), torch.float32)
    with pytest.raises(ValueError, match="cu_seqlens: expected 0 ≤ … ≤ 9"):
        sample.run(inputs, cu_seqlens=torch.tensor(boundaries))
