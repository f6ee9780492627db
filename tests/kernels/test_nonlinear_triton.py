"""Triton kernels of the nonlinear family: matrices that do not fit into a program, and both directions in one launch."""

from __future__ import annotations

import pytest
import torch
from triton_checks import DEVICE, check, moved, packed

from visionrnn.kernels import bidirectional_nonlinear_rnn, dispatch, launch, nonlinear_rnn
from visionrnn.kernels.nonlinear import triton_op
from visionrnn.kernels.nonlinear.cells import CELLS
from visionrnn.testing import SAMPLES, error

CELL_SAMPLES = ["elman", "gru", "lstm", "slstm", "slstm_without_floor"]


@pytest.fixture
def streamed(monkeypatch):
    """No matrix stays in a program."""
    monkeypatch.setattr(triton_op, "RESIDENT_BYTES", (0, 0))


@pytest.mark.parametrize("name", ["elman", "gru", "slstm"])
def test_matrices_in_tiles(name, streamed):
    """More than one tile, the last one not whole, and sequences of different lengths in a program."""
    inputs, boundaries = packed(SAMPLES[name], [1, 5, 0, 3], heads=1, key=20, value=20)
    check(SAMPLES[name], inputs, torch.float32, cu_seqlens=boundaries)


def test_matrices_in_tiles_in_a_half_type(streamed):
    check(SAMPLES["lstm"], SAMPLES["lstm"].inputs(batch=9, length=5, heads=1, key=20), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CELL_SAMPLES)
@pytest.mark.parametrize("width", [33, 130, 256])
def test_matrices_in_tiles_of_many_widths(name, dtype, width, streamed):
    inputs, boundaries = packed(SAMPLES[name], [0, 1, 9, 4] * 3, heads=2, key=width, value=width)
    check(SAMPLES[name], inputs, dtype, cu_seqlens=boundaries, reverse=True)


def test_both_directions_in_one_launch():
    ahead, back = (SAMPLES["slstm"].inputs(batch=2, length=6, heads=2, key=5, seed=seed, dtype=torch.float32) for seed in range(2))
    names = CELLS["slstm"].states
    both = {name: torch.stack([ahead[name], back[name]]).detach().to(DEVICE) for name in ahead}
    given = [tuple(both[name][i] for name in names) for i in range(2)]
    arguments = (both["x"], both["R"], both["bias"], given)
    options = {"cell": "slstm", "return_final_state": True}
    y, states = bidirectional_nonlinear_rnn(*arguments, **options, backend="triton")
    expected, finals = bidirectional_nonlinear_rnn(*arguments, **options, backend="reference")
    assert y.shape == (2, 6, 4, 5)
    assert error(y, expected) < 1e-5
    for found, exact in zip(states, finals, strict=True):
        for state, value in zip(found, exact, strict=True):
            assert error(state, value) < 1e-5
    with launch.recording() as launches:
        bidirectional_nonlinear_rnn(*arguments, **options, backend="triton")
    assert len(launches) == 1


def test_wide_heads_of_both_directions_find_another_back_end(monkeypatch):
    """Where "auto" stands for Triton, as on a GPU."""
    inputs = SAMPLES["elman"].inputs(batch=1, length=2, heads=1, key=257, dtype=torch.float32)
    both = {name: torch.stack([value, value.flip(0)]).detach() for name, value in inputs.items()}
    expected = bidirectional_nonlinear_rnn(both["x"], both["R"], both["bias"], cell="elman", backend="reference")
    monkeypatch.setitem(dispatch.PREFERENCE, "cpu", ("triton", "chunkwise"))
    y = bidirectional_nonlinear_rnn(both["x"], both["R"], both["bias"], cell="elman")
    assert error(y, expected) < 1e-5
    with pytest.raises(ValueError, match="widths up to 256"):
        bidirectional_nonlinear_rnn(both["x"], both["R"], both["bias"], cell="elman", backend="triton")


@pytest.mark.parametrize("name", CELL_SAMPLES)
def test_gradients_without_steps(name):
    """Constants get zeros, states what came to the final ones."""
    inputs = moved(SAMPLES[name].inputs(batch=2, length=0, heads=1, key=4, dtype=torch.float32))
    found = SAMPLES[name].gradients(inputs, backend="triton")
    for constant in ("R", "bias"):
        assert found[f"d {constant}"].eq(0).all()
    for state in SAMPLES[name].states:  # of the sum of squares
        assert torch.equal(found[f"d {state}"], 2 * inputs[state])


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_launches_of_a_training_step(cell):
    kind = CELLS[cell]
    x, R = torch.zeros(3, 40, kind.inputs, 2, 64, requires_grad=True), torch.zeros(kind.matrices, 2, 64, 64, requires_grad=True)
    with launch.recording() as launches:
        nonlinear_rnn(x, R, cell=cell, backend="triton").sum().backward()
    names = [stated.kernel.rpartition(".nonlinear_rnn_")[2] for stated in launches]
    assert names == ["forward", "gates", "backward", "matrix_gradient"]
    products = 2 * kind.matrices * 3 * 40 * 2 * 64 * 64
    assert [round(stated.flops / products) for stated in launches] == [1, 1, 1, 1]


def test_no_states_are_kept_without_gradients():
    x, R = torch.zeros(3, 40, 4, 2, 64), torch.zeros(4, 2, 64, 64)
    with launch.recording() as launches:
        nonlinear_rnn(x, R, cell="slstm", backend="triton")
    assert launches[0].arguments["before"] is None
