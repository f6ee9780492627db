"""Image classifiers with mmengine's runner: a folder of images is trained on, resumed after a kill, scored; mistakes are told in a line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")
pytest.importorskip("timm")
from mmengine.registry import DATASETS, METRICS, MODELS
from PIL import Image

import visionrnn.integrations.classification  # noqa: F401  registers the parts
from visionrnn.cli import main
from visionrnn.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("plain", "striped", "dotted")
CONFIG = """
_base_ = [
    "{configs}/_base_/datasets/imagenet-3augment.py",
    "{configs}/_base_/models/image_classifier.py",
    "{configs}/_base_/schedules/image-cosine.py",
    "{configs}/_base_/image_runtime-average.py",
]
loader = dict(batch_size=6, num_workers=2, pin_memory=False, dataset=dict(data_root="{data}", transform=dict(input_size=32)))
train_dataloader = loader
val_dataloader = dict(**dict(loader, num_workers=0, persistent_workers=False))
test_dataloader = val_dataloader
data_root = "{data}"
backbone = dict(name="vil2_tiny_patch16_224", img_size=32, patch_size=16, dim=16, depth=2, num_classes=3, drop_path_rate=0.2)
model = dict(backbone=backbone)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0), accumulative_counts=1)
param_scheduler = [dict(type="WarmupCosineLR", warmup=1, end_rate=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=4, val_interval=1)
val_evaluator = dict(type="TopAccuracy", top=(1, 2))
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=4))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1),
    dict(type="StepLog", kill_at={kill_at}),
]
custom_imports = dict(imports=["visionrnn.integrations.classification", "step_log"], allow_failed_imports=False)
"""
STEP_LOG = '''
import json, os, signal
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class StepLog(Hook):
    """Writes each step's loss and rate, exactly; kills the process after a step."""

    def __init__(self, kill_at):
        self.kill_at = kill_at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        row = [runner.iter, outputs["loss"].item().hex(), runner.optim_wrapper.param_groups[0]["lr"].hex(), sorted(data_batch["names"])]
        with open(Path(runner.work_dir) / "steps.jsonl", "a") as file:
            file.write(json.dumps(row) + "\\n")
        if runner.iter == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
'''


def images(folder: Path, count: int = 5, seed: int = 0) -> Path:
    """Folders train and val with ``count`` small pictures of each of three textures."""
    generator = np.random.default_rng(seed)
    for split in ("train", "val"):
        for number, name in enumerate(NAMES):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(100, 140, (40, 48, 3))
                if number:
                    pixels[:: number + 1] += 80
                if number == 2:
                    pixels[:, ::3] -= 60
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder


@pytest.fixture
def config(tmp_path):
    """Writes the config of a training on a folder of images."""
    data = images(tmp_path / "data")
    (tmp_path / "step_log.py").write_text(STEP_LOG)

    def write(name: str, kill_at: int = -1) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(CONFIG.format(configs=ROOT / "configs", data=data, kill_at=kill_at))
        return path

    return write


def run(config: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{config.parent}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(ROOT / "tools" / "train.py"), str(config), "--work-dir", str(config.with_suffix("")), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def steps(work_dir: Path) -> dict[int, list]:
    """Iteration → [loss, rate, images]; a later line for the same iteration wins."""
    rows = [json.loads(line) for line in (work_dir / "steps.jsonl").read_text().splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_killed_training_resumes_bit_for_bit(config, tmp_path):
    """3-augment in two workers that persist, mixup, drop-path, bfloat16, warm-up, moving average; killed in the third epoch."""
    killed = run(config("broken", kill_at=5))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    assert (broken / "last_checkpoint").read_text().endswith("epoch_2.pth")
    resumed = run(config("broken"), "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    unbroken = run(config("whole"))
    assert unbroken.returncode == 0, unbroken.stderr[-2000:]
    assert len(steps(whole)) == 8 and steps(broken) == steps(whole)
    first, second = (torch.load(path / "epoch_4.pth", weights_only=True) for path in (broken, whole))
    for part in ("state_dict", "ema_state_dict"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert any(not torch.equal(value, first["ema_state_dict"][f"module.{key}"]) for key, value in first["state_dict"].items())
    assert "accuracy/top1" in unbroken.stdout + unbroken.stderr and "next: visionrnn test" in unbroken.stdout + unbroken.stderr
    scores = [json.loads(line) for path in whole.glob("*/vis_data/scalars.json") for line in path.read_text().splitlines()]
    assert [row["accuracy/images"] for row in scores if "accuracy/images" in row] == [15] * 4


def test_score_of_a_checkpoint_is_that_of_its_training(config, tmp_path, monkeypatch, capsys):
    """The average of the weights is scored while training and by ``visionrnn test``, and counts right images of all."""
    path = config("scored")
    monkeypatch.syspath_prepend(str(tmp_path))
    work_dir = tmp_path / "scored"
    options = ["--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.num_workers=0"]
    assert main(["train", str(path), "--work-dir", str(work_dir), *options]) == 0
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    (trained,) = [row for row in map(json.loads, log.read_text().splitlines()) if "accuracy/top1" in row]
    assert main(["test", str(path), str(work_dir / "epoch_1.pth"), "--work-dir", str(tmp_path / "again")]) == 0
    (scores,) = (tmp_path / "again").glob("*/*.json")
    again = json.loads(scores.read_text())
    assert (again["accuracy/top1"], again["accuracy/top2"]) == (trained["accuracy/top1"], trained["accuracy/top2"])
    assert again["accuracy/top1"] * 15 / 100 == pytest.approx(round(again["accuracy/top1"] * 15 / 100))


@pytest.mark.slow
def test_two_processes_share_the_images(config, tmp_path):
    """Each sees half of an epoch; together they score every image of the test once."""
    done = run(
        config("two"), "--launcher", "pytorch", "--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=4", processes=2
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = torch.load(tmp_path / "two" / "epoch_1.pth", weights_only=True)
    assert checkpoint["meta"]["world_size"] == 2 and all(key.startswith("backbone.") for key in checkpoint["state_dict"])
    (log,) = (tmp_path / "two").glob("*/vis_data/scalars.json")
    (scores,) = [row for row in map(json.loads, log.read_text().splitlines()) if "accuracy/images" in row]
    assert scores["accuracy/images"] == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data_root=nowhere"], "nowhere/train: there is no such folder; expected one folder for each class with its images"),
        (["train_dataloader.batch_size=16"], "15 samples make no whole batch of 16"),
        (["train_dataloader.batch_size=5"], "5 images in a batch: model.mixup needs an even number"),
        (["model.backbone.num_classes=4"], "has 3 folders of classes, the model has 4 classes"),
        (["model.backbone.name=vil9"], "model.backbone.name='vil9': no classifier in timm's registry; ours are: "),
        (["model.loss.type=LabelSmoothingCrossEntropy"], "does not take the targets of a training with model.mixup"),
        (["+model.backbone.width=16"], "model.backbone: vil2_tiny_patch16_224 has no such option: "),
        (["model.loss.type=Hinge"], "model.loss.type='Hinge': unknown; expected one of CrossEntropyLoss"),
    ],
)
def test_mistakes_are_told_in_a_line(config, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["train", str(config("wrong")), "--cfg-options", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_imagenet_config_names_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "vil2-tiny_8xb256-800e_imagenet-192px"]) == 2
    error = capsys.readouterr().err.strip()
    assert "data/imagenet/train: there is no such folder" in error and "docs/image_training.md" in error and "data_root=DIR" in error


def test_mmdet3d_is_not_needed(tmp_path):
    """A training with the packages of the extra ``train`` alone: mmcv, mmdet and mmdet3d cannot be imported."""
    images(tmp_path / "data")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('mmcv', 'mmdet', 'mmdet3d'))); from visionrnn.cli import main;"
        f"sys.exit(main(['train', 'vil2-tiny_8xb128-20e_imagenet-224px', '--work-dir', {str(tmp_path / 'run')!r}, '--cfg-options',"
        f"'data_root={tmp_path}/data', 'model.backbone.num_classes=3', '+model.backbone.depth=2', '+model.backbone.dim=16',"
        "'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',"
        "'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "epoch_1.pth").is_file()


def test_samples_depend_on_seed_epoch_and_number_alone(tmp_path):
    transform = {"input_size": 32, "is_training": True, "auto_augment": "3a", "color_jitter": 0.3, "interpolation": "bicubic"}
    options = {"type": "ImageFolders", "data_root": str(images(tmp_path)), "split": "train", "transform": transform}
    first, second = DATASETS.build(options), DATASETS.build(options)
    assert first.metainfo["classes"] == tuple(sorted(NAMES)) and len(first) == 15
    torch.manual_seed(5)
    state = torch.get_rng_state()
    sample = first[3]
    assert torch.equal(state, torch.get_rng_state()) and sample["inputs"].shape == (3, 32, 32) and sample["names"].endswith("3.png")
    torch.rand(7), second[8]
    assert torch.equal(sample["inputs"], second[3]["inputs"])
    second.set_epoch(1)
    assert not torch.equal(sample["inputs"], second[3]["inputs"])
    second.set_epoch(0), second.set_seed(9)
    assert not torch.equal(sample["inputs"], second[3]["inputs"])


def test_class_without_images_is_refused(tmp_path):
    """Its number would silently be the next class's."""
    options = {"type": "ImageFolders", "data_root": str(images(tmp_path)), "split": "val", "transform": {"input_size": 32}}
    (tmp_path / "val" / ".cache").mkdir()
    assert len(DATASETS.build(options)) == 15
    DATASETS.get("ImageFolders").check_files(options, classes=3)
    (tmp_path / "val" / "empty").mkdir()
    with pytest.raises(DataError, match=r"val: expected images directly in each of its folders.* look at: empty"):
        DATASETS.build(options)


def test_losses_are_timms_with_mixed_and_with_plain_labels():
    torch.manual_seed(0)
    np.random.seed(0)
    backbone = {"name": "vil2_tiny_patch16_224", "img_size": 32, "patch_size": 16, "dim": 16, "depth": 2, "num_classes": 3}
    pictures, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    for loss, mixup in (
        ({"type": "CrossEntropyLoss"}, None),
        ({"type": "LabelSmoothingCrossEntropy", "smoothing": 0.1}, None),
        ({"type": "SoftTargetCrossEntropy"}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}),
        ({"type": "BinaryCrossEntropy"}, {"mixup_alpha": 0.8}),
    ):
        model = MODELS.build({"type": "ImageClassifier", "backbone": backbone, "loss": loss, "mixup": mixup})
        torch.nn.init.normal_(model.backbone.head.weight, std=0.1)
        before = pictures.clone()
        value = model(before, labels, mode="loss")["loss"]
        value.backward()
        assert torch.isfinite(value) and all(p.grad is not None for p in model.parameters())
        assert torch.equal(before, pictures) == (mixup is None)
        if loss["type"] == "LabelSmoothingCrossEntropy":
            scores = model(pictures)
            expected = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.1)
            assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(DataError, match=r"without model\.mixup"):
        MODELS.build({"type": "ImageClassifier", "backbone": backbone, "loss": {"type": "SoftTargetCrossEntropy"}})


def test_accuracy_counts_by_hand():
    metric = METRICS.build({"type": "TopAccuracy", "top": (1, 2)})
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.0, float("nan"), 0.0]])
    labels = [0, 2, 0, 1]
    metric.process(None, [{"scores": row, "label": label} for row, label in zip(scores, labels, strict=True)])
    assert metric.evaluate(size=4) == {"accuracy/top1": 25.0, "accuracy/top2": 50.0, "accuracy/images": 4}


def test_warp_moves_and_turns():
    from visionrnn.integrations.classification.augment import RandomWarp

    torch.manual_seed(0)
    pictures = torch.rand(6, 1, 16, 16)
    assert torch.allclose(RandomWarp()(pictures), pictures, atol=1e-5)
    warped = RandomWarp(turn=20, scale=0.2, shear=0.2, move=0.1, bend=0.03)(pictures)
    assert warped.shape == pictures.shape and warped.min() >= 0 and warped.max() <= 1
    assert all(float((warped[i] - pictures[i]).abs().mean()) > 0.02 for i in range(6))
    dot = torch.zeros(400, 1, 33, 33)
    dot[:, :, 15:18, 15:18] = 1
    places = RandomWarp(move=0.2)(dot)[:, 0].flatten(1).argmax(1)
    rows = (places // 33 - 16).float()
    assert 5 <= rows.max() <= 7 and -7 <= rows.min() <= -5 and abs(float(rows.mean())) < 0.7
    for wrong in ({"scale": 1.5}, {"turn": -12}):
        with pytest.raises(ValueError, match="expected numbers of 0 or more, scale below 1"):
            RandomWarp(**wrong)


def test_positions_of_another_grid_are_loaded(tmp_path, config, monkeypatch):
    """A fine-tuning at 64 pixels starts from the weights at 32: positions re-sampled, all else as it was."""
    from visionrnn.integrations.classification.positions_hook import ResamplePositionsHook
    from visionrnn.layers.patch_embed import resample_positions

    class Runner:
        import logging

        logger = logging.getLogger("test")

    options = {"name": "vil2_tiny_patch16_224", "patch_size": 16, "dim": 16, "depth": 2, "num_classes": 3}
    small, large = (MODELS.build({"type": "ImageClassifier", "backbone": {**options, "img_size": size}}) for size in (32, 64))
    state = {key: value.clone() for key, value in small.state_dict().items()}
    checkpoint = {"state_dict": state}
    Runner.bare_model = large
    ResamplePositionsHook().after_load_checkpoint(Runner, checkpoint)
    large.load_state_dict(checkpoint["state_dict"])
    changed = [key for key, value in large.state_dict().items() if value.shape != small.state_dict()[key].shape]
    (name,) = changed
    assert torch.equal(large.state_dict()[name], resample_positions(small.state_dict()[name], (4, 4)))


def test_digits_are_split_by_halves():
    sklearn = pytest.importorskip("sklearn.datasets")
    truth = sklearn.load_digits()
    parts = {subset: DATASETS.build({"type": "Digits", "subset": subset}) for subset in ("train", "val", "trainval", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 719, "val": 179, "trainval": 898, "test": 899}
    assert parts["test"][0]["names"] == "digit 898" and int(parts["test"][0]["labels"]) == truth.target[898]
    labels = torch.cat([parts["train"].labels, parts["val"].labels])
    assert torch.equal(labels, parts["trainval"].labels)
    image = parts["test"][5]["inputs"]
    assert image.shape == (1, 32, 32) and image.min() >= -1 and image.max() <= 1
    shrunk = torch.nn.functional.avg_pool2d(image, 4)[0] * 8 + 8
    assert np.corrcoef(shrunk.flatten(), truth.images[903].flatten())[0, 1] > 0.98
    with pytest.raises(DataError, match="subset='all'"):
        DATASETS.build({"type": "Digits", "subset": "all"})
