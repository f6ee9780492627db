"""The last epochs of a training see no augmentation: with workers that live on, with new ones, and after a resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")
import tiny
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from visionrnn.integrations.mmengine import SafeRunner
from visionrnn.integrations.mmengine.fade_hook import FadeAugmentationHook, FadingStep, pipelines


class Shift:
    """Moves a sample far away, so that it can be told from one that was not moved."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "x": sample["x"] + 1000}


class Keep(Shift):
    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


class Steps:
    def __init__(self) -> None:
        self.transforms = [Shift(), Keep()]

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        for step in self.transforms:
            sample = step(sample)
        return sample


@DATASETS.register_module()
class ShiftedDataset(tiny.TinyDataset):
    def __init__(self) -> None:
        super().__init__(6)
        self.pipeline = Steps()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pipeline(super().__getitem__(index))


@DATASETS.register_module()
class Wrapped:
    def __init__(self) -> None:
        self.dataset = ShiftedDataset()
        self.metainfo = self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index]


SEEN: dict[int, set[bool]] = {}


@HOOKS.register_module()
class Watch(Hook):
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        SEEN.setdefault(runner.epoch, set()).update(bool(x.mean() > 500) for x in data_batch["x"])


def config(folder: Path, steps: Any = "Shift", workers: int = 0, last: int = 2, dataset: str = "ShiftedDataset", **changes: Any):
    cfg = tiny.config(folder, workers=workers, **changes)
    cfg.train_dataloader.dataset = {"type": dataset}
    cfg.custom_hooks = [{"type": "Watch"}, {"type": "FadeAugmentationHook", "last_epochs": last, "steps": steps}]
    cfg.train_cfg.val_interval = 10
    return cfg


@pytest.mark.parametrize(("workers", "dataset"), [(0, "Wrapped"), (1, "ShiftedDataset")])
def test_last_epochs_are_without(tmp_path, caplog, workers, dataset):
    SEEN.clear()
    runner = SafeRunner.from_cfg(config(tmp_path, workers=workers, dataset=dataset))
    assert runner.cfg.train_dataloader.persistent_workers == (workers > 0)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert {0: {True}, 1: {True}, 2: {False}, 3: {False}} == SEEN
    assert [line for line in caplog.messages if " on without " in line] == ["from epoch 3 on without Shift"]


def test_resumed_run_is_like_an_unbroken_one(tmp_path):
    SEEN.clear()
    SafeRunner.from_cfg(config(tmp_path, epochs=3, last=1)).train()
    assert SEEN[2] == {False}
    SEEN.clear()
    SafeRunner.from_cfg(config(tmp_path, epochs=5, last=1, resume=True)).train()
    assert {3: {True}, 4: {False}} == SEEN


def test_steps_are_wrapped_once(tmp_path):
    hook, data = FadeAugmentationHook(1, ["Shift", "Keep"]), ShiftedDataset()
    runner = type("Runner", (), {"train_dataloader": type("Loader", (), {"dataset": data}), "train_loop": None})
    hook.before_train(runner)
    hook.before_train(runner)
    (steps,) = pipelines(data)
    assert [type(step) for step in steps] == [FadingStep, FadingStep] and isinstance(steps[0].step, Shift)
    assert "Shift" in repr(steps[0])


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="last_epochs=0; expected at least 1"):
        FadeAugmentationHook(0)
    for steps, name in (("all", "PasteObjects, ObjectSample"), (("Shift", "Turn"), "Turn")):
        with pytest.raises(ValueError, match=f"the training pipeline has no {name}"):
            SafeRunner.from_cfg(config(tmp_path, steps)).train()


def test_training_by_iterations_is_refused(tmp_path):
    cfg = config(tmp_path)
    cfg.train_cfg = {"by_epoch": False, "max_iters": 4}
    with pytest.raises(ValueError, match="train_cfg counts iterations; expected by_epoch=True"):
        SafeRunner.from_cfg(cfg).train()
