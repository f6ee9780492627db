"""From a config file and command-line choices to a run: what ``visionrnn train`` and ``visionrnn test`` do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from visionrnn.checkpoints import read_checkpoint
from visionrnn.cli.configs import find_config
from visionrnn.errors import DataError
from visionrnn.integrations.mmengine.options import apply_options, parse_options
from visionrnn.integrations.mmengine.runner import SafeRunner

NOISE = (r".*pos_bboxes is deprecated", r"torch\.meshgrid: in an upcoming release")
"""Warnings of mmdet and mmdet3d about their own code, which users can do nothing about."""


def load_config(
    name_or_path: str | Path, options: Sequence[str] = (), work_dir: str | Path | None = None, launcher: str = "none"
) -> Config:
    """The config of that path or name with ``key=value`` options applied and its modules imported.

    ``work_dir`` wins over the config's; without either it is ``work_dirs/NAME``. Raises DataError for an unknown config, key or a file that
    is no config.
    """
    path = find_config(name_or_path)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        config = Config.fromfile(path)
    except (SyntaxError, FileNotFoundError, KeyError, NameError) as error:
        raise DataError(f"{path}: not a config that can be read: {type(error).__name__}: {error}") from error
    if config.get("default_scope") == "mmdet3d":
        import visionrnn.integrations.mmdet3d  # noqa: F401  (registers; needed where the config does not import it)
    apply_options(config, parse_options(options))
    config.launcher = launcher
    config.work_dir = str(work_dir or config.get("work_dir") or Path("work_dirs") / path.stem)
    return config


def train(
    name_or_path: str | Path,
    work_dir: str | Path | None = None,
    resume: str | None = None,
    cfg_options: Sequence[str] = (),
    launcher: str = "none",
    amp: bool = False,
    auto_scale_lr: bool = False,
    seed: int | None = None,
) -> SafeRunner:
    """Trains and returns the runner. ``resume``: None, "auto" for the last checkpoint of the work dir, or a checkpoint file.

    Raises DataError (config, options, missing data, loss that is not finite) and CheckpointError.
    """
    config = load_config(name_or_path, cfg_options, work_dir, launcher)
    if resume is not None:
        config.resume = True
        config.load_from = None if resume == "auto" else resume
    if config.get("load_from") and not Path(config.load_from).expanduser().is_file():
        read_checkpoint(config.load_from)  # says what is wrong before data and model are built
    if seed is not None:
        config.randomness = {**config.get("randomness", {}), "seed": seed}
    if amp:
        _use_amp(config)
    if auto_scale_lr:
        if "base_batch_size" not in config.get("auto_scale_lr", {}):
            raise DataError(f"{name_or_path}: --auto-scale-lr needs auto_scale_lr = dict(base_batch_size=…) in the config")
        config.auto_scale_lr.enable = True
    check_data(config, ("train", "val") if config.get("val_dataloader") else ("train",))
    runner = SafeRunner.from_cfg(config)
    runner.train()
    return runner


def test(
    name_or_path: str | Path,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    show_dir: str | Path | None = None,
    cfg_options: Sequence[str] = (),
    launcher: str = "none",
) -> dict[str, Any]:
    """Scores a checkpoint on the config's test set and returns the metrics; ``show_dir`` gets one picture per frame.

    Raises DataError (config, options, missing data) and CheckpointError.
    """
    config = load_config(name_or_path, cfg_options, work_dir, launcher)
    if not config.get("test_dataloader"):
        raise DataError(f"{name_or_path}: the config has no test_dataloader")
    if not Path(checkpoint).expanduser().is_file():
        read_checkpoint(checkpoint)
    config.load_from, config.resume = str(checkpoint), False
    if show_dir is not None:
        if config.model.get("type") == "ImageClassifier":
            raise DataError("--show-dir: draws boxes, which an image classifier does not find; leave the option out")
        config.custom_hooks = [*config.get("custom_hooks", []), {"type": "PictureHook", "out_dir": str(show_dir)}]
    check_data(config, ("test",))
    return SafeRunner.from_cfg(config).test()


def _use_amp(config: Config) -> None:
    if config.optim_wrapper.get("type") == "BFloat16OptimWrapper":
        return
    if not torch.cuda.is_available() and config.model.get("type") == "ImageClassifier":
        config.optim_wrapper.type = "BFloat16OptimWrapper"
        return
    if not torch.cuda.is_available():
        raise DataError("--amp: mixed precision needs a GPU and torch sees none; leave the option out")
    if config.optim_wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", "AmpOptimWrapper"):
        raise DataError(f"--amp: the config's optim_wrapper is {config.optim_wrapper.type}; expected OptimWrapper")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")


def check_data(config: Config, subsets: Sequence[str]) -> None:
    """Raises DataError naming the first file or folder of the subsets ("train", "val", "test") that is missing, and how to make it.

    Files are a data set's ``ann_file``; a class of data set may check more: ``check_files(its config, number of the model's classes)``.
    """
    classes = config.get("model", {}).get("backbone", {}).get("num_classes")
    for subset in subsets:
        for dataset in _datasets(config.get(f"{subset}_dataloader", {}).get("dataset")):
            check = getattr(DATASETS.get(dataset.get("type", "")), "check_files", None)
            if check is not None:
                check(dataset, classes)
            if not dataset.get("ann_file"):
                continue
            root = Path(dataset.get("data_root") or "")
            path = root / dataset["ann_file"]
            if not path.is_file():
                kind = f"synthetic --out {root}" if "synthetic" in str(root) else f"kitti --root {root}"
                raise DataError(
                    f"{path}: the {subset} set's annotation file is missing; prepare the data with: visionrnn create-data {kind}"
                    " (data elsewhere: --cfg-options data_root=DIR)"
                )


def _datasets(dataset: Any) -> Iterator[dict]:
    """The data set configs inside wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset, dict):
        inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets")
        if inner:
            for wrapped in inner:
                yield from _datasets(wrapped)
        else:
            yield dataset
