"""LION's configs are the authors': sizes of all parts, grids, schedules, augmentation, docstrings.

The numbers are written down here by hand from the description of the published configs, not taken from ours.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

FOLDER = Path(__file__).parents[2] / "configs" / "lion"
SIZES = {  # parameters of LION, of the whole detector
    "lion-mamba_8xb2-80e_kitti-3d-3class": (2_755_840, 7_226_696),
    "lion-rwkv_8xb2-80e_kitti-3d-3class": (4_331_392, 8_802_248),
    "lion-retnet_8xb2-80e_kitti-3d-3class": (3_336_832, 7_807_688),
    "lion-xlstm_8xb2-80e_kitti-3d-3class": (3_478_816, 7_949_672),
    "lion-ttt_8xb2-80e_kitti-3d-3class": (2_819_624, 7_290_480),
    "lion-mamba_8xb2-24e_waymo-3d-3class": (2_755_840, 8_608_428),
    "lion-rwkv_8xb2-24e_waymo-3d-3class": (4_331_392, 10_183_980),
    "lion-retnet_8xb2-24e_waymo-3d-3class": (3_336_832, 9_189_420),
    "lion-mamba-large_8xb2-24e_waymo-3d-3class": (10_041_856, 16_071_116),
    "lion-mamba_8xb2-36e_nuscenes-3d-10class": (10_041_856, 16_124_127),
    "lion-mamba_8xb2-48e_nuscenes-3d-10class": (10_041_856, 16_124_127),
    "lion-rwkv_8xb2-36e_nuscenes-3d-10class": (15_281_920, 21_364_191),
    "lion-retnet_8xb2-36e_nuscenes-3d-10class": (13_292_800, 19_375_071),
    "lion-mamba_8xb2-12e_argoverse2-3d-26class": (11_294_208, 15_752_522),
    "lion-rwkv_8xb2-12e_argoverse2-3d-26class": (17_458_944, 21_917_258),
    "lion-retnet_8xb2-12e_argoverse2-3d-26class": (15_118_848, 19_577_162),
    "lion-mamba_8xb2-80e_once-3d-5class": (10_041_856, 15_123_917),
    "lion-rwkv_8xb2-80e_once-3d-5class": (15_281_920, 20_363_981),
    "lion-retnet_8xb2-80e_once-3d-5class": (13_292_800, 18_374_861),
}
MAMBA = {re.search(r"_(\w+)-3d", name).group(1): name for name in SIZES if name.startswith("lion-mamba_") and "48e" not in name}
GRID = {
    "kitti": (352, 400, 32),
    "waymo": (472, 472, 32),
    "nuscenes": (360, 360, 32),
    "once": (376, 376, 32),
    "argoverse2": (1000, 1000, 32),
}
COLUMNS = {"kitti": 4, "waymo": 5, "nuscenes": 5, "once": 4, "argoverse2": 4}
SCHEDULE = {  # epochs, start of the rate, weight decay, share of the rise, gradient norm, epochs without augmentation
    "kitti": (80, 3e-4, 0.01, 0.4, 10, None),
    "waymo": (24, 3e-5, 0.05, 0.1, 10, (1, "all")),
    "nuscenes": (36, 3e-4, 0.05, 0.4, 35, (4, ["PasteObjects"])),
    "once": (80, 3e-4, 0.01, 0.4, 35, None),
    "argoverse2": (12, 3e-5, 0.05, 0.1, 10, (1, "all")),
}
PASTED = {  # how many of each class, in the order of the labels; whether those of the scene count
    "kitti": ([15, 10, 10], False),
    "waymo": ([15, 10, 10], True),
    "nuscenes": ([2, 3, 7, 4, 6, 2, 6, 6, 2, 2], True),
    "once": ([1, 4, 3, 2, 2], True),
    "argoverse2": ([1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2], True),
}
MOVED = {  # flips (left-right, front-back), scales, translation
    "kitti": (0.5, 0.0, [0.95, 1.05], 0.0),
    "waymo": (0.5, 0.5, [0.95, 1.05], 0.5),
    "nuscenes": (0.5, 0.5, [0.9, 1.1], 0.5),
    "once": (0.5, 0.5, [0.95, 1.05], 0.0),
    "argoverse2": (0.5, 0.5, [0.95, 1.05], 0.5),
}


@cache
def read(name):
    return Config.fromfile(FOLDER / f"{name}.py")


def build(name, device="meta"):
    with DefaultScope.overwrite_default_scope("mmdet3d"), torch.device(device):
        return MODELS.build(read(name).model)


def test_all_are_here():
    assert {path.stem for path in FOLDER.glob("*_8xb2-*.py")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name):
    model = build(name)
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    assert (count["middle_encoder"], sum(count.values())) == SIZES[name]


@pytest.mark.parametrize("data", MAMBA)
def test_grid_and_stages(data):
    model = build(MAMBA[data])
    assert model.voxel_encoder.grid == GRID[data]
    assert read(MAMBA[data]).model.voxel_encoder.in_channels == COLUMNS[data]
    stages = [stage.encoder[0].stage for stage in model.middle_encoder.stages]
    assert [(tuple(stage.window), stage.group_size, stage.shift) for stage in stages] == [
        ((13, 13, 32), 4096, True),
        ((13, 13, 16), 2048, True),
        ((13, 13, 8), 1024, True),
        ((13, 13, 4), 512, True),
    ]


def test_operator_is_one_changed_part():
    """A variant differs from its Mamba config in the operator alone."""
    for name in SIZES:
        operator, data = re.match(r"lion-([\w-]+?)_.*_(\w+)-3d", name).groups()
        if operator in ("rwkv", "retnet", "xlstm", "ttt"):
            ours, mamba = read(name).to_dict(), read(MAMBA[data]).to_dict()
            config = ours["model"]["middle_encoder"].pop("operator")
            assert mamba["model"]["middle_encoder"].pop("operator") == dict(type="mamba", d_state=16, d_conv=4, expand=2)
            assert config["type"] == operator and "d_state" not in config
            wide = data not in ("kitti", "waymo")
            assert config["num_heads"] == (2 if operator == "retnet" and not wide else 4)
            assert ours == mamba


def test_other_variants_of_a_mamba_config():
    large, waymo = read("lion-mamba-large_8xb2-24e_waymo-3d-3class").to_dict(), read(MAMBA["waymo"]).to_dict()
    assert (waymo["model"]["middle_encoder"]["dim"], waymo["model"]["middle_encoder"]["drop_path"]) == (64, 0.0)
    assert (large["model"]["middle_encoder"]["dim"], large["model"]["middle_encoder"]["drop_path"]) == (128, 0.2)
    assert all(read(MAMBA[data]).model.middle_encoder.drop_path == 0.2 for data in MAMBA if data != "waymo")
    large.pop("model"), waymo.pop("model")
    assert large == waymo
    longer, nuscenes = read("lion-mamba_8xb2-48e_nuscenes-3d-10class").to_dict(), read(MAMBA["nuscenes"]).to_dict()
    assert (longer["train_cfg"].pop("max_epochs"), nuscenes["train_cfg"].pop("max_epochs")) == (48, 36)
    assert longer == nuscenes


@pytest.mark.parametrize("data", MAMBA)
def test_schedule(data):
    """The rate and the momentum that the schedulers give, over a training of 100 iterations."""
    config = read(MAMBA[data])
    epochs, start, decay, rise, clip, fade = SCHEDULE[data]
    assert config.train_cfg.max_epochs == epochs and f"-{epochs}e_" in MAMBA[data]
    assert config.optim_wrapper.clip_grad.max_norm == clip and config.optim_wrapper.constructor == "DecayGroups"
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay, tuple(optimizer.betas)) == ("AdamW", start, decay, (0.95, 0.99))
    rates, momenta = trace(config, 100)
    peak = round(rise * 100) - 1
    assert rates[0] == pytest.approx(start) and rates[peak] == pytest.approx(3e-3) == max(rates)
    assert rates[-1] == pytest.approx(start * 1e-4)
    half = peak + (99 - peak) // 2
    assert rates[half] == pytest.approx(1.5e-3, rel=0.05)
    assert momenta[0] == pytest.approx(0.95) and momenta[peak] == pytest.approx(0.85) and momenta[-1] == pytest.approx(0.95)
    hooks = {hook.type: hook for hook in config.custom_hooks}
    found = hooks.get("FadeAugmentationHook")
    assert (found and (found.last_epochs, found.get("steps", "all"))) == fade
    assert config.train_dataloader.batch_size == 2 and config.auto_scale_lr.base_batch_size == 16


def trace(config, iterations):
    from mmengine.registry import PARAM_SCHEDULERS

    options = dict(config.optim_wrapper.optimizer)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=options["lr"], betas=options["betas"])
    schedulers = []
    for step in config.param_scheduler:
        options = dict(step)
        kind = PARAM_SCHEDULERS.get(options.pop("type"))
        options.pop("convert_to_iter_based")
        schedulers.append(kind.build_iter_from_epoch(optimizer=optimizer, end=1, epoch_length=iterations, **options))
    rates, momenta = [], []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates, momenta


@pytest.mark.parametrize("data", MAMBA)
def test_augmentation(data):
    config = read(MAMBA[data])
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert list(steps)[-7:] == [
        "PasteObjects",
        "RandomFlip3D",
        "GlobalRotScaleTrans",
        "PointsRangeFilter",
        "ObjectRangeFilter3D",
        "PointShuffle",
        "Pack3DDetInputs",
    ]
    numbers, whole = PASTED[data]
    paste = steps["PasteObjects"]
    assert [paste.groups[name] for name in config.class_names] == numbers and tuple(paste.classes) == tuple(config.class_names)
    assert paste.get("limit_whole_scene", False) == whole
    assert paste.info_path == f"{data}_dbinfos_train.pkl" if data != "kitti" else "info_path" not in paste
    assert paste.min_points == (dict(Car=5, Pedestrian=10, Cyclist=10) if data == "waymo" else 5)
    side, front, scales, shift = MOVED[data]
    flip, move = steps["RandomFlip3D"], steps["GlobalRotScaleTrans"]
    assert (flip.flip_ratio_bev_horizontal, flip.get("flip_ratio_bev_vertical", 0.0)) == (side, front)
    assert list(move.scale_ratio_range) == scales and list(move.get("translation_std", [0.0] * 3)) == [shift] * 3
    assert move.rot_range[1] == -move.rot_range[0] == pytest.approx(math.pi / 4)
    low, high = config.point_cloud_range[:3], config.point_cloud_range[3:]
    voxel = config.model.voxel_encoder.voxel_size
    assert tuple(round((b - a) / v) for a, b, v in zip(low, high, voxel, strict=True)) == GRID[data]
    assert config.model.voxel_encoder.point_cloud_range == config.point_cloud_range
    dataset = config.train_dataloader.dataset
    assert list(dataset.metainfo.classes) == list(config.val_dataloader.dataset.metainfo.classes) == config.class_names


def test_heads_know_the_classes():
    order = ["car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"]
    assert read(MAMBA["nuscenes"]).class_names == order
    assert read(MAMBA["waymo"]).class_names == read(MAMBA["kitti"]).class_names == ["Car", "Pedestrian", "Cyclist"]
    argoverse = read(MAMBA["argoverse2"])
    groups = [[argoverse.class_names[label] for label in group] for group in argoverse.model.bbox_head.groups]
    assert [len(group) for group in groups] == [1, 4, 6, 9, 5, 1]
    assert [group[0] for group in groups] == ["Regular_vehicle", "Pedestrian", "Bollard", "Large_vehicle", "Bicycle", "Dog"]
    kitti = build(MAMBA["kitti"])
    assert kitti.bbox_head.num_anchors == 6


@pytest.mark.parametrize("operator", ["mamba", "rwkv", "retnet", "xlstm", "ttt"])
def test_only_mambas_states_do_not_decay(operator):
    """34 blocks with A and D of two directions; everything else decays, norms and biases too."""
    from visionrnn.integrations.mmengine.optimizers import DecayGroups

    model, groups = build(f"lion-{operator}_8xb2-80e_kitti-3d-3class"), []
    DecayGroups({"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1.0}}).add_params(groups, model)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    free = [tuple(p.shape) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]]
    assert sorted(free) == (sorted([(128, 16), (128,)] * 2 * 34) if operator == "mamba" else [])


@pytest.mark.parametrize("name", SIZES)
def test_docstring_states_commands_hardware_and_score(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert f"torchrun --nproc_per_node 8 tools/train.py {name} --launcher pytorch" in text
    assert f"tools/test.py {name} CHECKPOINT" in text
    assert "8 GPUs with 2 frames each" in text and "Reported by the authors" in text and "Not trained by us" in text
    assert "create-data" in text or "create_data.py" in text or "configs/_base_/datasets/" in text
    published = ("nuscenes" in name and "rwkv" not in name and "48e" not in name) or "argoverse2" in name
    assert ("Weights are published" in text) == published != ("Weights are not published" in text)
