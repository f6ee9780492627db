"""Configs of the image classifiers: models, recipes and augmentation are the published ones, or say that they are ours.

The numbers are written down here by hand from the papers and the authors' published settings, not taken from the configs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine")
pytest.importorskip("timm")
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from timm.data import create_transform

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = sorted(f"{folder}/{path.stem}" for folder in ("vil", "sequencer", "visionrnn") for path in (FOLDER / folder).glob("*.py"))
IMAGENET = [name for name in NAMES if "imagenet" in name]
DIGITS = [name for name in NAMES if "digits" in name]
RECIPES = {  # epochs, rate, batch, warm-up, lowest rate, gradient norm, drop-path, pixels, label smoothing
    "vil/vil2-tiny_8xb256-800e_imagenet-192px": (800, 2e-3, 2048, 5, 1e-6, 1.0, 0.0, 192, 0.0),
    "vil/vil2-small_8xb256-400e_imagenet-192px": (400, 2e-3, 2048, 5, 1e-6, 1.0, 0.05, 192, 0.0),
    "vil/vil2-base_8xb256-400e_imagenet-192px": (400, 2e-3, 2048, 5, 1e-6, 1.0, 0.2, 192, 0.0),
    "vil/vil2-tiny_8xb128-20e_imagenet-224px": (20, 1e-5, 1024, 5, 1e-6, None, 0.0, 224, 0.0),
    "vil/vil2-small_8xb128-20e_imagenet-224px": (20, 1e-5, 1024, 5, 1e-6, None, 0.05, 224, 0.0),
    "vil/vil2-base_8xb128-5e_imagenet-224px": (5, 1e-5, 1024, 1, 1e-6, None, 0.2, 224, 0.0),
    "vil/vil-tiny_8xb256-800e_imagenet-224px": (800, 2e-3, 2048, 5, 1e-6, 1.0, 0.0, 224, 0.0),
    "vil/vil-small_8xb256-400e_imagenet-224px": (400, 2e-3, 2048, 5, 1e-6, 1.0, 0.05, 224, 0.0),
    "vil/vil-base_8xb256-400e_imagenet-224px": (400, 2e-3, 2048, 5, 1e-6, 1.0, 0.2, 224, 0.0),
    "sequencer/sequencer-s_8xb256-300e_imagenet-224px": (300, 2e-3, 2048, 20, 1e-5, None, 0.1, 224, 0.1),
    "sequencer/sequencer-m_8xb256-300e_imagenet-224px": (300, 2e-3, 2048, 20, 1e-5, None, 0.2, 224, 0.1),
    "sequencer/sequencer-l_8xb256-300e_imagenet-224px": (300, 2e-3, 2048, 20, 1e-5, None, 0.4, 224, 0.1),
    "sequencer/sequencer-l_8xb64-30e_imagenet-392px": (30, 5e-5, 512, 0, 1e-5, None, 0.4, 392, 0.1),
    **{
        f"visionrnn/visionrnn-{operator}-tiny_8xb128-300e_imagenet-224px": (300, 1e-3, 1024, 5, 1e-6, 1.0, 0.0, 224, 0.1)
        for operator in ("mamba", "rwkv", "retnet", "xlstm", "ttt")
    },
}
SIZES = {  # parameters
    "vil2-tiny": 6_391_528,
    "vil2-small": 23_398_696,
    "vil2-base": 89_263_528,
    "vil-tiny": 6_088_360,
    "vil-small": 22_792_360,
    "vil-base": 88_050_856,
    "sequencer-s": 27_651_688,
    "sequencer-m": 38_307_688,
    "sequencer-l": 54_298_216,
}


@cache
def read(name):
    return Config.fromfile(FOLDER / f"{name}.py")


def build(name):
    with torch.device("meta"):
        return MODELS.build(read(name).model)


def test_all_recipes_are_here():
    assert set(IMAGENET) == set(RECIPES) and len(DIGITS) == 7


@pytest.mark.parametrize("name", NAMES)
def test_config_builds(name):
    """Model, metric, hooks and transforms; the data need not be there."""
    config = read(name)
    model = build(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    expected = SIZES.get(Path(name).name.partition("_")[0])
    if expected and "192px" not in name:
        assert count == expected
    elif expected:
        fewer = (14 * 14 - 12 * 12) * model.backbone.num_features
        assert expected - count in (fewer, fewer // 2)  # the second version's head sees two tokens: num_features is doubled
    METRICS.build(config.val_evaluator)
    for hook in config.custom_hooks:
        HOOKS.build(hook)
    assert OPTIM_WRAPPERS.get(config.optim_wrapper.type)
    assert config.test_dataloader == config.val_dataloader and config.test_evaluator == config.val_evaluator
    assert config.default_scope == "mmengine" and not any("mmdet3d" in name for name in config.custom_imports.imports)
    for loader in (config.train_dataloader, config.val_dataloader):
        if "imagenet" in name:
            assert loader.dataset.data_root == config.data_root == "data/imagenet"
            create_transform(**loader.dataset.transform)


@pytest.mark.parametrize("name", IMAGENET)
def test_recipe(name):
    config = read(name)
    epochs, rate, batch, warmup, lowest, norm, drop_path, pixels, smoothing = RECIPES[name]
    assert config.train_cfg.max_epochs == epochs and f"-{epochs}e_" in name and f"{pixels}px" in name
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, tuple(optimizer.betas)) == ("AdamW", rate, (0.9, 0.999))
    assert optimizer.weight_decay == (1e-8 if "392px" in name else 0.05)
    assert 8 * config.train_dataloader.batch_size == batch == config.auto_scale_lr.base_batch_size
    (schedule,) = config.param_scheduler
    assert (schedule.warmup, schedule.end_rate) == (warmup, lowest)
    assert (config.optim_wrapper.get("clip_grad") or {}).get("max_norm") == norm
    assert config.model.backbone.get("drop_path_rate", 0.0) == drop_path
    assert config.model.backbone.get("drop_path_ramp", False) == name.startswith("sequencer")  # Vision-LSTM: the same in every block
    assert any(hook.type == "ResamplePositionsHook" for hook in config.custom_hooks)
    train, test = config.train_dataloader.dataset.transform, config.val_dataloader.dataset.transform
    assert train.input_size == test.input_size == pixels == config.model.backbone.get("img_size", 224)
    assert test.crop_pct == (0.875 if name.startswith("sequencer") and "392px" not in name else 1.0)
    mixup = config.model.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.prob, mixup.switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert mixup.get("label_smoothing", 0.0) == smoothing
    if name.startswith("vil"):
        assert (train.auto_augment, train.color_jitter, train.interpolation) == ("3a", 0.3, "bicubic")
        assert train.get("re_prob", 0.0) == 0.0
    else:
        assert (train.auto_augment, train.re_prob, train.re_mode) == ("rand-m9-mstd0.5-inc1", 0.25, "pixel")


def test_schedule_rises_straight_and_falls_as_a_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    options = dict(read("sequencer/sequencer-s_8xb256-300e_imagenet-224px").param_scheduler[0])
    kind = PARAM_SCHEDULERS.get(options.pop("type"))
    options.pop("convert_to_iter_based")
    scheduler = kind.build_iter_from_epoch(optimizer=optimizer, end=300, epoch_length=10, **options)
    rates = []
    for _ in range(3000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rise = rates[:200]
    assert rise[0] == pytest.approx(1e-6 + (2e-3 - 1e-6) / 201)
    assert rise[100] - rise[99] == pytest.approx(rise[1] - rise[0]) and rise == sorted(rise)
    assert rates[200] == pytest.approx(2e-3) == max(rates) and rates[-1] == pytest.approx(1e-5)
    assert rates[200 + 2800 // 2] == pytest.approx((2e-3 + 1e-5) / 2, rel=2e-3)


def test_layer_decay_holds_for_the_lowest_rate_too():
    """Otherwise the first layers' rates, far below ``end_rate``, would rise to it."""
    config = read("vil/vil2-tiny_8xb128-20e_imagenet-224px")
    backbone = dict(name="vil2_tiny_patch16_224", img_size=32, dim=16, depth=6, num_classes=3)
    model = MODELS.build({"type": "ImageClassifier", "backbone": backbone})
    wrapper = build_optim_wrapper(model, {**config.optim_wrapper, "type": "OptimWrapper", "paramwise_cfg": {"layer_decay": 0.5}})
    groups = wrapper.optimizer.param_groups
    assert min(group["lr"] for group in groups) == pytest.approx(1e-5 * 0.5**7) and max(group["lr"] for group in groups) == 1e-5
    scheduler = PARAM_SCHEDULERS.get("WarmupCosineLR").build_iter_from_epoch(
        optimizer=wrapper, warmup=1, end_rate=1e-6, end=4, epoch_length=5
    )
    for _ in range(20):
        shares = [group["lr"] / max(g["lr"] for g in groups) for group in groups]
        assert shares == pytest.approx([group["lr_scale"] for group in groups])
        scheduler.step()
    assert max(group["lr"] for group in groups) == pytest.approx(1e-6)


@pytest.mark.parametrize("name", IMAGENET)
def test_docstring_states_commands_hardware_and_score(name):
    stem = Path(name).name
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert f"torchrun --nproc_per_node 8 tools/train.py {stem} --launcher pytorch" in text and f"tools/test.py {stem} CHECKPOINT" in text
    assert f"8 GPUs with {read(name).train_dataloader.batch_size} images each" in text
    assert (
        ("there is no score" in text)
        == name.startswith("visionrnn")
        != ("Reported by the authors: " in text and "Not trained by us" in text)
    )
