"""Every shipped config says how it is run; models and data sets of the LiDAR detectors are what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import HOOKS, DefaultScope

import visionrnn.integrations.mmengine  # noqa: F401  registers the hooks

FOLDER = Path(__file__).parents[2] / "configs"
COMMANDS = ("visionrnn train", "tools/train.py")
CONFIGS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py") if "_base_" not in path.parts)
LIDAR = [name for name in CONFIGS if name.startswith(("baselines/", "lion/"))]


@pytest.mark.parametrize("name", LIDAR)
def test_config_builds(name):
    config = Config.fromfile(FOLDER / name)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(config.model)
    assert model.bbox_head if "centerpoint" not in name else model.pts_bbox_head
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.data_root == config.data_root
        assert DATASETS.get(loader.dataset.type)
        with DefaultScope.overwrite_default_scope("mmdet3d"):
            for step in loader.dataset.pipeline:
                if step.type != "PasteObjects":  # reads its data base of objects
                    TRANSFORMS.build(step)
    assert config.test_dataloader == config.val_dataloader and config.test_evaluator == config.val_evaluator
    METRICS.build(config.val_evaluator)
    if config.val_evaluator.type == "KittiAP":
        assert config.val_evaluator.ann_file == f"{config.data_root}/{config.val_dataloader.dataset.ann_file}"
    for hook in config.custom_hooks:
        HOOKS.build(hook)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_how_it_is_run(name):
    text = (FOLDER / name).read_text(encoding="utf-8").split('"""')[1]
    assert any(f"{command} {place}{Path(name).stem}" in text for command in COMMANDS for place in ("", f"configs/{Path(name).parent}/"))
