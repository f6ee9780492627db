"""Every shipped config is read, and its model and data sets are what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import DefaultScope

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py") if "_base_" not in path.parts)


def build(name: str):
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        return MODELS.build(Config.fromfile(FOLDER / name).model)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds(name):
    config = Config.fromfile(FOLDER / name)
    assert build(name).bbox_head if "centerpoint" not in name else build(name).pts_bbox_head
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.data_root == config.data_root
        with DefaultScope.overwrite_default_scope("mmdet3d"):
            for step in loader.dataset.pipeline:
                if step.type != "PasteObjects":  # reads its data base of objects
                    TRANSFORMS.build(step)
    assert config.val_evaluator.type == "KittiAP"
    assert config.val_evaluator.ann_file == f"{config.data_root}/{config.val_dataloader.dataset.ann_file}"
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert (text.startswith('"""') and "visionrnn train" in text) or "tools/train.py" in text


def test_kitti_config_has_the_official_sizes():
    """Parameters of the official KITTI LION-Mamba by part: its voxel encoder, backbone, bird's-eye net and head."""
    model = build("lion/lion-mamba_8xb2-80e_kitti-3d-3class.py")
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children() if name != "data_preprocessor"}
    assert count["middle_encoder"] == 2_755_840
    assert sum(count.values()) == 7_226_696
    assert model.bbox_head.num_anchors == 6
    assert model.voxel_encoder.grid == (352, 400, 32)
    assert [stage.encoder[0].stage.group_size for stage in model.middle_encoder.stages] == [4096, 2048, 1024, 512]


def test_kitti_schedule_is_one_cycle():
    config = Config.fromfile(FOLDER / "lion/lion-mamba_8xb2-80e_kitti-3d-3class.py")
    assert config.train_cfg.max_epochs == 80
    assert config.optim_wrapper.optimizer.lr == 3e-4 and config.optim_wrapper.optimizer.weight_decay == 0.01
    assert config.optim_wrapper.clip_grad.max_norm == 10
    paste = next(step for step in config.train_dataloader.dataset.pipeline if step.type == "PasteObjects")
    assert dict(paste.groups) == dict(Car=15, Pedestrian=10, Cyclist=10)
