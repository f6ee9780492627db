"""LION against numbers of the official implementation; tolerances are those stored beside the numbers."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from visionrnn.backbones.blocks import Place, build_block
from visionrnn.backbones.lion import LION, LIONLayer, PositionEmbedding, Scan, Stage
from visionrnn.backbones.lion_sparse import SparseLION
from visionrnn.checkpoints import as_official, from_official, load_official
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.errors import CheckpointError
from visionrnn.layers.voxel_merge import VoxelMerging, expand
from visionrnn.serialization import Voxels, make_groups, window_keys

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
OPTIONS = {  # official operator → its constructor arguments that matter to us, and our names of them
    "Mamba": {name: name for name in ("d_state", "d_conv", "expand", "post_norm")},
    "RWKV": {"n_head": "num_heads", **{name: name for name in ("hidden_rate", "init_values", "key_norm", "post_norm")}},
    "RetNet": {"n_head": "num_heads", "expand_v": "expand_v", "hidden_rate": "hidden_rate"},
    "xLSTM": {},
    "TTT": {"n_head": "num_heads", "use_gate": "gate"},
}


def scan_of(name: str, config: dict) -> Scan:
    options = {ours: config[official] for official, ours in OPTIONS[name].items() if official in config}
    return Scan({"type": name.lower(), **options}, padding="duplicate")


def voxels_of(features: torch.Tensor, coords: torch.Tensor, shape: list[int], batch_size: int | None = None) -> Voxels:
    return Voxels.from_coords(features, coords, tuple(shape), int(coords[:, 0].max()) + 1 if batch_size is None else batch_size)


@DTYPES
@pytest.mark.goldens("lion", "operator_*.npz")
def test_operator(golden, dtype, close):
    exact = dtype == torch.float64
    operator, kwargs = golden.config["operator"], golden.config["kwargs"]
    place = Place(kwargs.get("layer_id", 0), kwargs.get("n_layer", 34))
    block = build_block(scan_of(operator, kwargs).operator, kwargs["d_model"], place).to(dtype).eval()
    load_official(block, golden.group("state/", dtype))
    x = golden["x"].to(dtype).requires_grad_()
    out = block(x)
    close(out, golden["out"], (5e-6 if operator == "TTT" else 1e-6) if exact else 1e-5, "out")
    out.backward(golden["cot"].to(dtype))
    bound = (1e-5 if operator == "TTT" else 2e-6) if exact else 3e-5
    close(x.grad, golden["grad_x"], bound, "grad_x")
    gradients = as_official({name: parameter.grad for name, parameter in block.named_parameters()})
    stored = golden.group("grad/")
    assert gradients.keys() == stored.keys()
    for name, gradient in gradients.items():
        close(gradient, stored[name], bound, name)


@pytest.mark.goldens("lion", "serialize.npz")
def test_serialize(golden):
    for case in golden.config["cases"]:
        stored = golden.group(case["case"] + "/")
        coords = stored["coords"]
        keys = window_keys(coords, tuple(case["sparse_shape_zyx"]), tuple(case["window_shape_xyz"]), case["shift"])
        order_x, order_y = keys.argsort(dim=1)
        assert torch.equal(order_x, stored["x"].long()), case
        assert torch.equal(order_y, stored["y"].long()), case
        groups = make_groups(tuple(case["num_voxels"]), case["group_size"], "duplicate")
        assert torch.equal(groups.index, stored["flat2win"].long()), case
        assert torch.equal(groups.inverse, stored["win2flat"].long()), case


@DTYPES
@pytest.mark.goldens("lion", "merging.npz")
def test_merging(golden, dtype, close):
    exact = dtype == torch.float64
    for case in golden.config["cases"]:
        stored = golden.group(case["case"] + "/")
        merging = VoxelMerging(
            case["dim"],
            case["down_scale_xyz"],
            generate_ratio=case["diff_scale"] if case["diffusion"] else 0.0,
            generate_step=case["coords_shift"],
            generate_number=case["diffusion_scale"],
        ).to(dtype)
        merging.floor_keys = True
        load_official(merging, golden.group(case["case"] + "/state/", dtype))
        features = stored["features"].to(dtype).requires_grad_()
        coarse, inverse = merging(voxels_of(features, stored["indices"], case["spatial_shape_zyx"], case["batch_size"]))
        assert torch.equal(coarse.coords, stored["out_indices"]), case
        assert torch.equal(inverse, stored["unq_inv"].long()), case
        assert list(coarse.spatial_shape) == case["out_spatial_shape_zyx"]
        bound = 1e-6 if exact else 1e-5
        close(coarse.features, stored["out_features"], bound, f"{case['case']} out")
        coarse.features.backward(stored["cot"].to(dtype))
        close(features.grad, stored["grad_features"], bound, f"{case['case']} grad_features")
        gradients = from_official(golden.group(case["case"] + "/grad/"))
        for name, parameter in merging.named_parameters():
            close(parameter.grad, gradients[name], bound, f"{case['case']} {name}")
        if "expand_out_features" in stored:
            low, up = (stored[f"expand_{level}_features"].to(dtype) for level in ("low", "up"))
            close(expand(up, low, inverse), stored["expand_out_features"], bound, f"{case['case']} expand")


@DTYPES
@pytest.mark.goldens("lion", "layer.npz")
def test_layer(golden, dtype, close):
    bound, covered = 1e-6 if dtype == torch.float64 else 2e-5, 0
    for case in golden.config["cases"]:
        if case["kind"] != "LIONLayer" or case["operator"] not in OPTIONS:
            continue
        stored = golden.group(case["case"] + "/")
        stage = Stage(case["window_shape_xyz"], case["group_size"])
        layer = LIONLayer(case["dim"], stage, case["shift"], scan_of(case["operator"], case["operator_cfg"])).to(dtype).eval()
        load_official(layer, golden.group(case["case"] + "/state/", dtype))
        features = stored["features"].to(dtype).requires_grad_()
        out = layer(voxels_of(features, stored["coords"], case["sparse_shape_zyx"], len(case["num_voxels"]))).features
        close(out, stored["out"], bound, f"{case['case']} out")
        out.backward(stored["cot"].to(dtype))
        close(features.grad, stored["grad_features"], bound, f"{case['case']} grad_features")
        covered += 1
    for prefix in sorted({name.split("/")[0] for name in golden.arrays.files if name.startswith("posemb")}):
        stored = golden.group(prefix + "/")
        dim = stored["out"].shape[1]
        embedding = PositionEmbedding(dim).to(dtype).eval()
        load_official(embedding, golden.group(prefix + "/state/", dtype))
        shape = stored["spatial_shape_zyx"].tolist()
        out = embedding(voxels_of(torch.zeros(len(stored["coords"]), dim, dtype=dtype), stored["coords"], shape))
        close(out, stored["out"], bound, f"{prefix} out")
        covered += 1
    assert covered, "no case of this file could be run"


@pytest.mark.goldens("lion", "vfe.npz")
def test_vfe(golden, close):
    for case in golden.config["cases"]:
        stored = golden.group(case["case"] + "/")
        layout = case["point_cloud_range"], case["voxel_size"]
        encoder = DynamicVFE(case["num_point_features"], case["num_filters"], *layout, coords_dtype=torch.float32).eval()
        assert list(encoder.grid) == case["grid_size_xyz"]
        load_official(encoder, golden.group(case["case"] + "/state/"))
        points = stored["points"]
        features, coords, counts = encoder(points[:, 1:], points[:, 0].long(), int(points[:, 0].max()) + 1)
        assert torch.equal(coords, stored["voxel_coords"].int())
        assert sum(counts) == case["num_voxels"]
        close(features, stored["voxel_features"], 1e-5, case["case"])


@DTYPES
@pytest.mark.goldens("lion", "backbone_*.npz")
def test_backbone(golden, dtype, close):
    sparse = golden.config["class"] == "LION3DBackboneOneStride_Sparse"
    exact, config = dtype == torch.float64, golden.config["model_cfg"]
    scan = scan_of(config["OPERATOR"]["NAME"], config["OPERATOR"]["CFG"])
    model = (SparseLION if sparse else LION)(
        config["LAYER_DIM"][0],
        scan.operator,
        [Stage(window, size, config["SHIFT"]) for window, size in zip(config["WINDOW_SHAPE"], config["GROUP_SIZE"], strict=True)],
        generate_ratio=config["DIFF_SCALE"] if config["DIFFUSION"] else 0.0,
        padding="duplicate",
    )
    model = model.to(dtype).eval()
    load_official(model, golden.group("state/", dtype))
    features = golden["voxel_features"].to(dtype).requires_grad_()
    shape = golden.config["grid_size_xyz"][::-1]
    out, intermediates = model.forward_intermediates(voxels_of(features, golden["voxel_coords"], shape, int(golden["batch_size"])))
    bound = 2e-6 if exact else 1e-4
    assert torch.equal(out.coords[:, [0, 2, 3]] if sparse else out.coords, golden["out_coords"])
    assert list(out.spatial_shape) == [1] * sparse + golden["out_spatial_shape"].tolist()
    close(out.features, golden["out_features"], bound, "out")
    for i, voxels in enumerate([] if sparse else intermediates[:-1], start=1):  # the official x_conv4 is the final output, checked above
        assert torch.equal(voxels.coords, golden[f"ms/x_conv{i}/coords"]), i
        close(voxels.features, golden[f"ms/x_conv{i}/features"], bound, f"x_conv{i}")
    out.features.backward(golden["cot"].to(dtype))
    # in float32 the gradients of 68 mLSTM layers deviate more, a plain loop's as much as ours
    close(features.grad, golden["grad_voxel_features"], 5e-4 if scan.operator["type"] == "xlstm" and not exact else bound, "grad")
    gradients = as_official({name: parameter.grad for name, parameter in model.named_parameters()})
    stored = dict(zip(golden.arrays["param_names"].tolist(), golden["grad_l2"].tolist(), strict=True))
    assert gradients.keys() == stored.keys()
    for name, gradient in gradients.items():
        assert float(gradient.double().norm()) == pytest.approx(stored[name], rel=50 * bound), name


def test_other_weights_are_refused_and_leave_the_model_alone():
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.clone()
    message = r"1 missing from the file: bias; 1 of another shape: weight \(3, 1\) in the file, \(3, 2\) in the model; 1 not in"
    with pytest.raises(CheckpointError, match=message):
        load_official(layer, {"weight": torch.zeros(3, 1), "scale": torch.zeros(1)})
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "xlstm", "ttt"])
@pytest.mark.goldens("lion", "init_deterministic.npz")
def test_starting_values(golden, name):
    """Those that are not drawn: RetNet has none, and norms that start as torch's are not all stored."""
    prefixes = {prefix for prefix in (key.split("/")[0] for key in golden.arrays.files) if prefix.startswith(name)}
    assert prefixes
    for prefix in prefixes:
        place = Place(int(prefix.removeprefix("rwkv_layer")), golden.config["rwkv"]["n_layer"]) if name == "rwkv" else Place(0, 34)
        found = as_official(build_block(name, golden.config[name]["d_model"], place).state_dict())
        for key, stored in golden.group(prefix + "/").items():
            assert torch.allclose(found[key], stored, rtol=1e-6, atol=2e-7), (prefix, key)


def test_official_key_lists(goldens_folder):
    """Every key of KITTI's encoders and backbones has a place in ours, none is left over, shapes agree; the way back is exact.

    Whole detectors, of all data sets: test_official_names.py, which needs mmdet3d.
    """
    path = goldens_folder / "lion" / "checkpoint_keys.json.gz"
    if not path.is_file():
        pytest.skip(f"no stored key lists in {path.parent}")
    models, generator = json.loads(gzip.decompress(path.read_bytes()))["models"], torch.Generator().manual_seed(0)
    layout = (0, -40, -3, 70.4, 40, 1), (0.2, 0.2, 0.125)
    names = [name for name in models if name.startswith("KITTI/")]
    assert len(names) == 5
    for model in names:
        keys = models[model]["keys"]
        with torch.device("meta"):
            modules = {"vfe.": DynamicVFE(4, [64, 64], *layout), "backbone_3d.": LION(64, model.split("/")[1].lower())}
        for prefix, module in modules.items():
            wanted = {key[len(prefix) :]: shape for key, shape in keys.items() if key.startswith(prefix)}
            official = {key: torch.rand(shape, generator=generator) for key, shape in wanted.items()}
            renamed = from_official(official)
            ours = {key: value.shape for key, value in module.state_dict().items()}
            assert {key: value.shape for key, value in renamed.items()} == ours, model
            back = as_official(renamed)
            assert back.keys() == official.keys(), model
            assert all(torch.equal(back[key], value) for key, value in official.items()), model
