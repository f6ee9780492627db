"""LION's blocks: packed groups, stochastic depth, starting values, options."""

from __future__ import annotations

import math

import pytest
import torch

from visionrnn.backbones.blocks import Place, build_block
from visionrnn.testing import error

OPERATORS = {
    "mamba": dict(type="mamba", d_state=4),
    "rwkv": dict(type="rwkv", num_heads=2, init_values=0.5),
    "rwkv_norms": dict(type="rwkv", num_heads=4, init_values=None, key_norm=True, post_norm=True),
    "retnet": dict(type="retnet", num_heads=2),
    "xlstm": dict(type="xlstm", num_heads=2),
    "ttt": dict(type="ttt", num_heads=2),
    "gla": dict(type="gla", num_heads=2),
}
BLOCKS = pytest.mark.parametrize("name", list(OPERATORS))
DIM = 16


def build(name: str, place: Place | None = None, **options) -> torch.nn.Module:
    """A block whose parameters are all away from their starting values."""
    torch.manual_seed(0)
    block = build_block(OPERATORS[name], DIM, place or Place(0, 34), **options).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return block


@BLOCKS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=["float64", "float32"])
def test_packed_groups_equal_separate_ones(name, dtype, bound):
    """Outputs and gradients, with groups of any length, one of them longer than all chunks, and an empty one."""
    block, lengths = build(name).to(dtype), (70, 1, 0, 33, 150)
    x, weight = torch.randn(2, 1, sum(lengths), DIM, dtype=dtype)
    packed = x.clone().requires_grad_()
    boundaries = torch.tensor([0, *lengths]).cumsum(0)
    out = block(packed, boundaries, max(lengths))
    gradients = torch.autograd.grad((out * weight).sum(), [packed, *block.parameters()])
    separate = x.clone().requires_grad_()
    alone = torch.cat([block(part) for part in separate.split(lengths, 1)], 1)
    expected = torch.autograd.grad((alone * weight).sum(), [separate, *block.parameters()])
    assert error(out, alone) < bound
    for found, wanted, key in zip(gradients, expected, ["x", *dict(block.named_parameters())], strict=True):
        assert error(found, wanted) < bound, key


@BLOCKS
def test_groups_of_one_length_may_be_an_axis(name):
    block, x = build(name), torch.randn(3, 40, DIM, dtype=torch.float64)
    packed = block(x.flatten(0, 1)[None], torch.arange(4) * 40, 40)
    assert error(block(x), packed.view_as(x)) < 1e-11


@BLOCKS
def test_no_steps_at_all(name):
    block = build(name, drop_path=0.2).train()
    x = torch.zeros(1, 0, DIM, dtype=torch.float64, requires_grad=True)
    out = block(x, torch.zeros(1, dtype=torch.int64), 0)
    assert out.shape == x.shape
    out.sum().backward()


@BLOCKS
def test_no_groups_at_all(name):
    out = build(name)(torch.zeros(0, 16, DIM, dtype=torch.float64, requires_grad=True))
    assert out.shape == (0, 16, DIM)
    out.sum().backward()


@BLOCKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision(name, dtype):
    """Under autocast, given numbers of either type: near the result in full precision."""
    block, x = build(name).float(), torch.randn(1, 40, DIM)
    exact = block(x, torch.tensor([0, 25, 40]), 25)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.to(dtype), torch.tensor([0, 25, 40]), 25)
    assert error(out, exact) < 0.05
    out.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("name", ["rwkv", "retnet", "xlstm", "mamba"])
def test_dropped_groups_are_left_as_they_were(name):
    """With almost every branch dropped, a group is either itself or far away, as a whole."""
    block, x = build(name, Place(1, 34), drop_path=0.9).train(), torch.randn(1, 400, DIM, dtype=torch.float64)
    torch.manual_seed(1)
    changed = (block(x, torch.arange(0, 401, 10), 10) - x).abs().amax(-1).view(40, 10)
    same = changed == 0
    assert torch.equal(same.all(1), same.any(1))
    assert 20 <= same.all(1).sum() < 40


def test_feed_forward_of_ttt_is_never_dropped():
    block, x = build("ttt", drop_path=0.999999).train(), torch.randn(1, 40, DIM, dtype=torch.float64)
    assert torch.equal(block(x), x + block.glu(block.glu_norm(x)))


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "gla"])
def test_only_mambas_state_parameters_are_free_of_weight_decay(name):
    free = {key.rpartition(".")[2] for key, value in build(name).named_parameters() if getattr(value, "_no_weight_decay", False)}
    assert free == ({"A_log", "D"} if name == "mamba" else set())


def test_only_the_first_rwkv_block_normalises_its_input():
    assert [build("rwkv", Place(i, 34)).input_norm is not None for i in range(3)] == [True, False, False]


@torch.no_grad()
def test_starting_values_that_are_drawn():
    torch.manual_seed(0)
    dim = 64
    xlstm = build_block("xlstm", dim, Place())
    for branch in (xlstm.ahead.mixer, xlstm.back.mixer):
        for weight, deviation in (
            (branch.up_proj.weight, math.sqrt(2 / (5 * dim))),
            (branch.qkv_weight, math.sqrt(2 / (5 * dim))),
            (branch.down_proj.weight, 2 / math.sqrt(dim)),
        ):
            assert weight.std() == pytest.approx(deviation, rel=0.05)
            assert weight.mean() == pytest.approx(0, abs=0.1 * deviation)
        assert 0 < branch.gates.bias[:4].abs().max() < 0.5
    rwkv = build_block("rwkv", dim, Place()).time_mix
    for weight in (rwkv.mix_down, rwkv.mix_up, rwkv.decay_down, rwkv.decay_up):
        assert 0.9e-4 < weight.abs().max() <= 1e-4
    retention = build_block("retnet", dim, Place()).retention
    for linear in (retention.q_proj, retention.k_proj, retention.v_proj, retention.out_proj):
        assert linear.weight.abs().max() == pytest.approx(2**-2.5 * math.sqrt(6 / sum(linear.weight.shape)), rel=0.01)
    learner = build_block("ttt", dim, Place()).learner
    for weight in (learner.model["weight"], learner.lr_proj.weight):
        assert weight.std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("operator", ["mambo", {"num_heads": 4}])
def test_unknown_operators_are_refused_with_the_choices(operator):
    with pytest.raises(KeyError, match=r"expected 'type' to be one of \[.*'gla'.*'xlstm'"):
        build_block(operator, DIM, Place())


def test_numbers_of_heads_that_do_not_divide_the_width_are_refused():
    for name in ("rwkv", "retnet", "xlstm", "ttt"):
        with pytest.raises(ValueError, match="dim=16 is not a multiple of num_heads=3"):
            build_block(dict(type=name, num_heads=3), DIM, Place())
