"""Published weights ↔ ours, as files: what is written, what is refused, and that the result runs."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable

from visionrnn import cli
from visionrnn.checkpoints import as_official
from visionrnn.detector import Detector
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.mmdet3d.conversion import build_without_memory, convert
from visionrnn.integrations.mmdet3d.inference import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = [{str(ROOT / "configs/_base_/models/lion_kitti.py")!r}]
default_scope = "mmdet3d"
point_cloud_range = [0, -3.2, -3, 6.4, 3.2, 1]
small = [dict(window=[4, 4, 8], group_size=64)]
model = dict(
    voxel_encoder=dict(feat_channels=[8, 8], point_cloud_range=point_cloud_range),
    middle_encoder=dict(dim=8, operator=dict(_delete_=True, type="mamba", d_state=2), stages=small, out_group_size=64),
    backbone=dict(layer_nums=[1, 1], out_channels=[8, 8]),
    neck=dict(in_channels=[8, 8], out_channels=[8, 8]),
    bbox_head=dict(in_channels=16, feat_channels=16))
test_pipeline = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=4, use_dim=4), dict(type="Pack3DDetInputs", keys=["points"])]
test_dataloader = dict(dataset=dict(dataset=dict(type="KittiDataset", pipeline=test_pipeline,
    metainfo=dict(classes=["Car", "Pedestrian", "Cyclist"]))))
"""


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def published(config, tmp_path) -> Path:
    """A file as OpenPCDet writes it, with random weights."""
    shapes = build_without_memory(load_config(config)).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()
    for name, value in as_official(shapes, step=0).items():
        drawn = torch.rand(value.shape, generator=generator) * 0.1
        state[name] = drawn.to(value.dtype) if value.dtype.is_floating_point else torch.full(value.shape, 3, dtype=value.dtype)
    path = tmp_path / "published.pth"
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "params": [0]}]}
    torch.save({"epoch": 36, "it": np.int64(5), "model_state": state, "optimizer_state": optimizer, "version": "pcdet+0.6.0"}, path)
    return path


def test_there_and_back(config, published, tmp_path, capsys):
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    assert cli.main(["convert-checkpoint", "lion", str(published), str(ours), "--config", str(config)]) == 0
    text = capsys.readouterr().out
    assert "left out: global_step" in text and "all with a place" in text and "+model.middle_encoder.padding=duplicate" in text
    content = torch.load(ours, weights_only=True)
    assert content["meta"]["classes"] == ["Car", "Pedestrian", "Cyclist"] and content["meta"]["converted_from"] == "published.pth"
    arguments = ["convert-checkpoint", "lion", str(ours), str(back), "--config", str(config), "--to", "official", "--step", "3"]
    assert cli.main(arguments) == 0
    before = torch.load(published, weights_only=False)["model_state"]
    after = torch.load(back, weights_only=True)
    assert after["optimizer_state"] is None and after["it"] == 3
    assert after["model_state"].keys() == before.keys()
    assert all(torch.equal(after["model_state"][name], value) for name, value in before.items())


def test_building_leaves_the_config_as_it_is(config):
    """mmdet3d's detectors write train_cfg and test_cfg into their head's config; the converted checkpoint stores the config."""
    loaded = load_config(config)
    before = loaded.pretty_text
    build_without_memory(loaded)
    assert loaded.pretty_text == before


def test_the_result_detects(config, published, tmp_path):
    for name in ("ours.pth", "ours.safetensors"):
        convert(published, tmp_path / name, config)
        detector = Detector(load_config(config), tmp_path / name)
        assert detector.classes == ("Car", "Pedestrian", "Cyclist")
        weights = detector._model.model.state_dict()
        stored = torch.load(published, weights_only=False)["model_state"]
        assert torch.equal(weights["bbox_head.conv_reg.weight"], stored["dense_head.conv_box.weight"])
    generator = np.random.default_rng(0)
    cloud = generator.uniform([0, -3, -2, 0], [6, 3, 0, 1], (200, 4)).astype(np.float32)
    assert np.isfinite(detector(cloud).boxes).all()


def test_refusals_write_nothing(config, published, tmp_path):
    ours = tmp_path / "ours.pth"
    with pytest.raises(DataError, match="is the file to convert"):
        convert(published, published, config, overwrite=True)
    (tmp_path / "link.pth").symlink_to(published)
    with pytest.raises(DataError, match="is the file to convert"):
        convert(published, tmp_path / "link.pth", config, overwrite=True)
    with pytest.raises(DataError, match="expected a file name that ends in"):
        convert(published, tmp_path / "ours", config)
    with pytest.raises(CheckpointError, match="there is no such checkpoint file"):
        convert(tmp_path / "absent.pth", ours, config)
    with pytest.raises(CheckpointError, match="has published names; leave out --to official"):
        convert(published, ours, config, to_official=True)
    assert not ours.exists()
    convert(published, ours, config)
    with pytest.raises(DataError, match="exists already; give another name, or --force"):
        convert(published, ours, config)
    convert(published, ours, config, overwrite=True)
    with pytest.raises(CheckpointError, match="has the names of this config's model"):
        convert(ours, tmp_path / "again.pth", config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.pth", "ours.pth", "published.pth", "tiny.py"]


def test_a_file_that_lacks_or_exceeds(config, published, tmp_path, monkeypatch):
    monkeypatch.setattr("visionrnn.integrations.mmdet3d.conversion.list_configs", list)
    content = torch.load(published, weights_only=False)
    state = content["model_state"]
    removed = state.pop("dense_head.conv_cls.bias")
    torch.save({"model_state": {**state, "dense_head.more": removed}}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"1 missing from the file: bbox_head.conv_cls.bias; 1 not in the model: bbox_head.more"):
        convert(tmp_path / "odd.pth", tmp_path / "ours.pth", config)
    assert not (tmp_path / "ours.pth").exists()


def test_the_wrong_config_names_the_right_one(tmp_path, monkeypatch):
    right, wrong = "lion/lion-mamba_8xb2-80e_kitti-3d-3class", "lion/lion-retnet_8xb2-80e_kitti-3d-3class"
    monkeypatch.setattr("visionrnn.integrations.mmdet3d.conversion.list_configs", lambda: [wrong, right])
    shapes = build_without_memory(load_config(right)).state_dict()
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in as_official(shapes).items()}
    torch.save({"model_state": state}, tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match=rf"keys fit; .* The file fits the config {right}$"):
        convert(tmp_path / "published.pth", tmp_path / "ours.pth", wrong)


def test_script_is_the_command():
    script = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "--help"]
    result = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "usage: visionrnn convert-checkpoint" in result.stdout and "--config" in result.stdout
