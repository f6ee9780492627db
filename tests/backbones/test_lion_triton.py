"""LION's layers on Triton's kernels: rows stay where they are and are read through an index. In the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from triton_checks import DEVICE

from visionrnn.backbones.lion import LIONLayer, Scan, Stage
from visionrnn.kernels import launch
from visionrnn.serialization import Voxels
from visionrnn.testing import BOUNDS, error

DIM, SHAPE, STAGE = 4, (4, 8, 8), Stage((13, 13, 32), 5)
OPERATORS = {
    "mamba": {}, "mamba before": {"post_norm": False}, "retnet": {"num_heads": 2}, "rwkv": {"num_heads": 2}, "xlstm": {"num_heads": 2},
}  # fmt: skip


def voxels(number: int = 7, samples: int = 1, dim: int = DIM) -> Voxels:
    generator = torch.Generator().manual_seed(0)
    depth, height, width = SHAPE
    cells = torch.stack([torch.randperm(depth * height * width, generator=generator)[:number].sort().values for _ in range(samples)])
    batch = torch.arange(samples).repeat_interleave(number)
    cell = cells.flatten()
    coords = torch.stack([batch, cell // (height * width), cell // width % height, cell % width], 1)
    return Voxels.from_coords(torch.randn(len(cell), dim, generator=generator), coords, SHAPE, samples)


def layer(name: str, backend: str, drop_path: float = 0.0, dim: int = DIM, padding: str = "exact") -> LIONLayer:
    torch.manual_seed(0)
    config = {"type": name.split()[0], "backend": backend, **OPERATORS[name]}
    return LIONLayer(dim, STAGE, True, Scan(config, drop_path=drop_path, padding=padding), first=2)


def on(device: str, given: Voxels) -> Voxels:
    return Voxels(given.features.to(device), given.coords.to(device), given.spatial_shape, given.counts)


class Gathers(TorchDispatchMode):
    """Bytes of rows that are copied in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.name().split("::")[1].split(".")[0] in (
            "index_select",
            "index",
            "gather",
            "index_copy",
            "index_copy_",
            "index_put_",
            "scatter",
        ):
            self.bytes += out.numel() * out.element_size() if isinstance(out, Tensor) and out.is_floating_point() else 0
        return out


def outputs(module: nn.Module, given: Voxels, wanted: bool) -> dict[str, Tensor]:
    """The layer's rows, and where ``wanted`` the gradients of a fixed scalar."""
    if not wanted:
        with torch.no_grad():
            return {"out": module(given).features}
    features = given.features.clone().requires_grad_()
    out = module(given.with_features(features)).features
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(out.square().sum(), [features, *parameters.values()])
    return {"out": out, **{f"d {name}": found for name, found in zip(["features", *parameters], gradients, strict=True)}}


@pytest.mark.parametrize("wanted", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", OPERATORS)
def test_agrees_with_the_reference(name, wanted):
    given = voxels()
    exact = outputs(layer(name, "reference").double(), given.with_features(given.features.double()), wanted)
    single = outputs(layer(name, "reference"), given, wanted)
    for what, value in outputs(layer(name, "triton").to(DEVICE), on(DEVICE, given), wanted).items():
        assert error(value.cpu(), exact[what]) <= BOUNDS[torch.float32] * error(single[what], exact[what]) + 1e-6, what


@pytest.mark.parametrize("wanted", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_is_gathered(name, wanted):
    given, module = on(DEVICE, voxels()), layer(name, "triton").to(DEVICE)
    layer(name, "chunkwise").to(DEVICE)(given)  # orders and boundaries are made, and kept with the voxels
    with Gathers() as gathers, launch.recording() as launches:
        outputs(module, given, wanted)
    assert gathers.bytes == 0 and launches
    with Gathers() as gathers:
        outputs(layer(name, "chunkwise").to(DEVICE), given, wanted)
    assert gathers.bytes > 0  # so that the zero means something


def test_dropped_groups_are_the_same():
    """A group's rows keep the scale that the group draws, wherever they lie."""
    given = voxels()
    ours, plain = layer("mamba", "triton", drop_path=0.5).to(DEVICE), layer("mamba", "chunkwise", drop_path=0.5).to(DEVICE)
    results = []
    for module in (ours, plain):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(module.train()(on(DEVICE, given)).features)
    assert error(results[0].cpu(), results[1].cpu()) <= 1e-5


def test_copies_are_scanned_as_before():
    """Groups filled with copies are no permutation of rows: they are gathered."""
    given = voxels()
    ours, plain = layer("mamba", "triton", padding="duplicate").to(DEVICE), layer("mamba", "chunkwise", padding="duplicate")
    with torch.no_grad():
        assert error(ours(on(DEVICE, given)).features.cpu(), plain(given).features) <= 1e-5


def test_what_stands_in_the_place_of_a_part_is_used():
    given, module = on(DEVICE, voxels()), layer("mamba", "triton").to(DEVICE)
    seen = []
    module.blocks[0].mixer.out_proj.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        hooked = module(given).features
        module.blocks[0].mixer.out_proj._forward_hooks.clear()
        assert seen and error(hooked, module(given).features) <= 1e-5


def test_a_norm_without_a_gain_is_still_a_norm():
    given, ours, plain = voxels(), layer("mamba", "triton"), layer("mamba", "chunkwise")
    for module in (ours, plain):
        module.blocks[0].norm = nn.LayerNorm(DIM, elementwise_affine=False)
    with torch.no_grad():
        assert error(ours.to(DEVICE)(on(DEVICE, given)).features.cpu(), plain(given).features) <= 1e-5


@pytest.mark.parametrize(("states", "reads"), [(256, True), (257, False)])
def test_wider_states_than_the_kernels_take_are_not_read_through_an_index(states, reads):
    scan = Scan({"type": "mamba", "backend": "triton", "d_state": states})
    block, features = LIONLayer(DIM, STAGE, True, scan).blocks[0].to(DEVICE), torch.zeros(1, DIM, device=DEVICE)
    assert block.scans_rows(features) is reads


def test_autocast():
    given, module = on(DEVICE, voxels()), layer("mamba", "triton").to(DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        half = module(given).features
    with torch.no_grad():
        assert half.dtype == torch.float32 and error(half, module(given).features) <= 0.05
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        assert module(given.with_features(given.features.bfloat16())).features.dtype == torch.float32  # as a norm in float32 makes it


def test_no_voxels():
    given = on(DEVICE, voxels(0))
    assert outputs(layer("mamba", "triton").to(DEVICE), given, False)["out"].shape == (0, DIM)
