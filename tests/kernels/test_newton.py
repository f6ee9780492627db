"""Newton's method over all steps at once, against the same cells step by step."""

from __future__ import annotations

import pytest
import torch

from visionrnn.kernels import available_backends, newton_rnn, nonlinear_rnn
from visionrnn.testing import error

GATES = {"elman": 1, "gru": 3}


def inputs(cell, batch=2, length=70, width=6, scale=1.0, dtype=torch.float64, sequences=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, GATES[cell], width), (GATES[cell], width), (sequences or batch, width)]
    x, weight, start = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return tuple(value.to(dtype).requires_grad_() for value in (x, weight * scale, start * 0.5))


def step_by_step(x, weight, start, cell, **options):
    """Heads of one unit; R of a GRU begins with the candidate."""
    R = (weight[[2, 0, 1]] if cell == "gru" else weight)[:, :, None, None]
    h, final = nonlinear_rnn(
        x.unsqueeze(-1), R, None, start.unsqueeze(-1), cell=cell, return_final_state=True, backend="reference", **options
    )
    return h.squeeze(-1), final.squeeze(-1)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@pytest.mark.parametrize("lengths", [None, [30, 0, 1, 39]], ids=str)
@pytest.mark.parametrize("backend", available_backends("diagonal", "diagonal_scan", "cpu"))
def test_equals_step_by_step(cell, reverse, lengths, backend):
    dtype = torch.float32 if backend == "native" else torch.float64
    given = inputs(cell, batch=1 if lengths else 2, dtype=dtype, sequences=lengths and len(lengths))
    options = dict(reverse=reverse, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0) if lengths else None)
    got = newton_rnn(*given, cell=cell, return_final_state=True, backend=backend, **options)
    want = step_by_step(*given, cell, **options)
    bound = 2e-6 if dtype == torch.float32 else 1e-12
    for value, exact in zip(got, want, strict=True):
        assert error(value, exact) < bound
    gradients = [torch.autograd.grad(h.square().sum() + final.sin().sum(), given) for h, final in (got, want)]
    for name, value, exact in zip(("x", "weight", "start"), *gradients, strict=True):
        assert error(value, exact) < 5 * bound, name


@pytest.mark.parametrize("cell", GATES)
def test_a_few_iterations_do_for_long_sequences(cell):
    given = inputs(cell, batch=1, length=20_000, width=4, scale=0.5)
    h = newton_rnn(*given, cell=cell, max_iterations=8)
    assert error(h, step_by_step(*given, cell)[0]) < 1e-11


@pytest.mark.parametrize("cell", GATES)
def test_gradcheck(cell):
    given = inputs(cell, batch=1, length=5, width=2)
    assert torch.autograd.gradcheck(lambda *values: newton_rnn(*values, cell=cell, return_final_state=True), given)


def test_large_weights_take_at_most_as_many_iterations_as_steps():
    """Every iteration makes one step more exact, whatever the weights; too few of them are an error."""
    given = inputs("elman", length=40, scale=30.0)
    assert error(newton_rnn(*given, cell="elman", max_iterations=42), step_by_step(*given, "elman")[0]) < 1e-9
    with pytest.raises(RuntimeError, match=r"did not converge in max_iterations=1: states still move by"):
        newton_rnn(*given, cell="elman", max_iterations=1)


def test_empty_half_and_wrong():
    x, weight, start = (value.detach() for value in inputs("gru", dtype=torch.float32))
    h, final = newton_rnn(x[:, :0], weight, start, return_final_state=True)
    assert h.shape == (2, 0, 6) and torch.equal(final, start)
    h, final = newton_rnn(x.bfloat16(), weight.bfloat16(), return_final_state=True)
    assert h.dtype == torch.bfloat16 and final.dtype == torch.float32
    with pytest.raises(ValueError, match=r"cell='lstm'; expected one of \['elman', 'gru'\]"):
        newton_rnn(x, weight, cell="lstm")
    with pytest.raises(ValueError, match=r"x: expected \[B, T, 1, D\] for cell='elman'"):
        newton_rnn(x, weight, cell="elman")
    with pytest.raises(ValueError, match=r"weight: expected shape \[3, 6\], got \[2, 6\]"):
        newton_rnn(x, weight[:2])
