"""Orders and boundaries of packed grids, re-ordering, and scans along them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.grids import Grids, gather, reorder, spread
from visionrnn.serialization.traversal2d import PATHS, Path, parse_traversal, path_order, windowed_order

CPU = torch.device("cpu")
SIZES = ((4, 5), (1, 3), (7, 2))
PACK, ONE = Grids(SIZES, packed=True), Grids(((4, 6),))
CROSS = parse_traversal("cross_scan")[0]


def tokens_of(grids: Grids, batch: int = 1, width: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(batch, sum(grids.lengths), width, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("window", [None, (3, 2)])
def test_packed_orders_are_each_image_s_own(name, reverse, window):
    path = Path(name, reverse)
    found = PACK.order(path, CPU, window, shift=True)
    if found is None:
        assert path == Path("raster") and window is None
        return
    expected, start = [], 0
    for height, width in SIZES:
        own = path_order(path, height, width) if window is None else windowed_order(path, height, width, window, True)
        expected.append(own + start)
        start += height * width
    order, place = found
    assert torch.equal(order, torch.cat(expected)) and torch.equal(order[place], torch.arange(start))


def test_orders_that_change_nothing_are_none():
    raster = (Path("raster"),)
    assert ONE.orders(raster, CPU) is None and ONE.orders(raster, CPU, (4, 6)) is None and ONE.orders(raster, CPU, (8, 12), True) is None
    for window, shift in (((3, 6), False), ((4, 5), False), ((4, 6), True), ((8, 10), True)):
        assert ONE.orders(raster, CPU, window, shift) is not None
    assert PACK.orders(raster, CPU, (7, 5)) is None and PACK.orders(raster, CPU, (6, 5)) is not None
    assert torch.equal(windowed_order("raster", 4, 6, (8, 12), True), torch.arange(24))


def test_orders_of_merged_paths():
    order, place = PACK.orders(CROSS, CPU)
    assert order.shape == place.shape == (4, 37)
    for row, back, path in zip(order, place, CROSS, strict=True):
        own = PACK.order(path, CPU)
        assert torch.equal(row, torch.arange(37) if own is None else own[0]) and torch.equal(row[back], torch.arange(37))


def test_kept_orders_serve_training_after_inference():
    grids = Grids(((5, 5),))
    with torch.inference_mode():
        order = grids.order(Path("hilbert"), CPU)
    assert grids.order(Path("hilbert"), CPU)[0].data_ptr() == order[0].data_ptr()
    x = tokens_of(grids).requires_grad_()
    reorder(x, *order).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_fake_tensors_are_not_kept():
    step, grids = parse_traversal([["snake", "diagonal"]])[0], Grids(((5, 5), (3, 2)), packed=True)
    with FakeTensorMode():
        assert type(grids.orders(step, CPU)[0]) is FakeTensor and type(grids.boundaries(CPU)[0]) is FakeTensor
    assert grids.boundaries(CPU)[0].tolist() == [0, 25, 31] and grids.orders(step, CPU)[0].sum() == 2 * 15 * 31
    with FakeTensorMode():
        assert type(grids.orders(step, CPU)[0]) is FakeTensor


def test_boundaries():
    assert ONE.boundaries(CPU) == (None, None)
    bounds, longest = PACK.boundaries(CPU)
    assert bounds.tolist() == [0, 20, 23, 37] and longest == 20
    bounds, longest = PACK.boundaries(CPU, paths=2, group_size=8)
    assert bounds.tolist() == [0, 8, 16, 20, 23, 31, 37, 45, 53, 57, 60, 68, 74] and longest == 8


def test_reorder_and_its_way_back():
    x = tokens_of(PACK, 2)
    order, place = PACK.order(Path("hilbert"), CPU)
    assert torch.equal(reorder(x, order, place), x[:, order]) and torch.equal(reorder(reorder(x, order, place), place, order), x)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda value: reorder(value, order, place), x)
    assert torch.autograd.gradgradcheck(lambda value: reorder(value, order, place).square(), x)


@pytest.mark.parametrize("step", [CROSS, (Path("snake"),)], ids=["merged", "single"])
def test_spread_and_gather_are_transposes(step):
    order, place = ONE.orders(step, CPU)
    x = tokens_of(ONE, 2).requires_grad_()
    paths = spread(x, order, place)
    assert torch.equal(paths.unflatten(1, (len(step), -1)), torch.stack([x[:, row] for row in order], 1))
    assert torch.allclose(gather(paths, order, place), len(step) * x, rtol=1e-14)
    other = torch.randn_like(paths)
    assert torch.allclose((paths * other).sum(), (x * gather(other, order, place)).sum(), rtol=1e-12)
    small = Grids(((2, 2),))
    order, place = small.orders(step, CPU)
    value, wide = tokens_of(small).requires_grad_(), tokens_of(Grids(((2, 2 * len(step)),))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spread(v, order, place), value)
    assert torch.autograd.gradcheck(lambda v: gather(v, order, place), wide)
    assert torch.autograd.gradgradcheck(lambda v: spread(v, order, place).square(), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_stay(dtype):
    x = tokens_of(ONE, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = gather(spread(x, *ONE.orders(CROSS, CPU)), *ONE.orders(CROSS, CPU)) / 4
    assert y.dtype == dtype and torch.allclose(y, x, rtol=0.02)


# ---- scans


def running_sum(x: torch.Tensor, cu_seqlens=None, max_seqlen=None) -> torch.Tensor:
    """A causal mixer: each token and all before it in its sequence."""
    if cu_seqlens is None:
        return x.cumsum(1)
    lengths = cu_seqlens.diff().tolist()
    assert max(lengths) <= max_seqlen and sum(lengths) == x.shape[1]
    return torch.cat([part.cumsum(1) for part in x.split(lengths, 1)], 1)


def scan_by_hand(scan: GridScan, x: torch.Tensor, sizes) -> torch.Tensor:
    """One image, one path and one group after the other. x: [B, Σ H · W, C]."""
    out, start = torch.zeros_like(x), 0
    for height, width in sizes:
        for path in scan.step:
            own = windowed_order(path, height, width, scan.window, scan.shift) if scan.window else path_order(path, height, width)
            for group in (own + start).split(scan.group_size or len(own)):
                out[:, group] += x[:, group].cumsum(1) / len(scan.step)
        start += height * width
    return out


@pytest.mark.parametrize("grids", [ONE, PACK, Grids(((5, 3),)), Grids(((1, 1), (4, 6)), packed=True)], ids=str)
@pytest.mark.parametrize("step", [CROSS, (Path("hilbert", True),), (Path("raster"),), (Path("snake"), Path("diagonal"))], ids=str)
@pytest.mark.parametrize("window", [None, (3, 2), (8, 8)])
@pytest.mark.parametrize("group_size", [None, 1, 5, 6, 100])
def test_scan(grids, step, window, group_size):
    for shift in (False, True):
        scan = GridScan(step, window, shift, group_size)
        x = tokens_of(grids, 1 if grids.packed else 3)
        assert torch.allclose(scan(running_sum, x, grids), scan_by_hand(scan, x, grids.sizes), rtol=1e-12, atol=1e-12)


def test_a_raster_scan_hands_on_the_tokens_themselves():
    seen = []
    x = tokens_of(ONE, 2)
    GridScan((Path("raster"),))(lambda tokens, *_: seen.append(tokens) or tokens, x, ONE)
    assert seen[0].data_ptr() == x.data_ptr() and seen[0].shape == x.shape


def test_empty_groups_are_refused():
    with pytest.raises(ValueError, match="group_size=0"):
        GridScan((Path("raster"),), group_size=0)


class Scans(torch.nn.Module):
    """Every path, windows, groups, and merged paths, in one graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = 4, 6
        for name in PATHS:
            order = Grids(((height, width),)).orders((Path(name, True),), x.device)
            x = x + torch.cumsum(reorder(x, order[0][0], order[1][0]), 1)
        for scan in (GridScan(CROSS), GridScan((Path("hilbert"),), (3, 2), True, 5), GridScan(CROSS, (2, 2), False, 6)):
            x = scan(lambda tokens, bounds, longest: tokens.cos() if bounds is None else tokens * bounds.numel(), x, ONE)
        return x


def test_compiled_and_exported():
    x = tokens_of(ONE, 2).requires_grad_()
    model = Scans()
    expected = model(x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    exported = torch.export.export(model, (x.detach(),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    more = tokens_of(ONE, 5)
    assert torch.allclose(exported.module()(more), model(more), rtol=1e-12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    assert torch.allclose(out, expected, rtol=1e-12)
    assert torch.allclose(torch.autograd.grad(out.square().sum(), x)[0], wanted, rtol=1e-12)


def test_compiled_packs():
    def run(x: torch.Tensor) -> torch.Tensor:
        return GridScan(CROSS, (3, 2), True, 5)(lambda tokens, bounds, longest: tokens * bounds.sum() + longest, x, PACK)

    x = tokens_of(PACK)
    assert torch.allclose(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x), rtol=1e-12)
