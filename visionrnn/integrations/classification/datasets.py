"""Folders of images, and whatever else timm's data set factory reads, as a data set of mmengine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS
from timm.data import create_dataset, create_transform
from torch.utils.data import Dataset, IterableDataset

from visionrnn.errors import DataError
from visionrnn.integrations.mmengine.seeding import seeded


@DATASETS.register_module()
class ImageFolders(Dataset):
    """Samples {"inputs": [3, H, W], "labels", "names"} of ``data_root/split``, one folder for each class.

    ``transform``: options of ``timm.data.create_transform`` (input_size, is_training, auto_augment, crop_pct, …). ``name``: kind of
    data set for ``timm.data.create_dataset``, such as "torch/cifar10" or "hfds/…"; "" means folders. What is random depends on (seed,
    epoch, sample) alone, however many workers load, so that a resumed training goes on as an unbroken one.

    Raises DataError when there is no such folder, a folder of a class without images (the numbers of the others would be wrong), and for
    streamed kinds, which have no numbered samples.
    """

    def __init__(self, data_root: str, split: str, transform: Mapping[str, Any], name: str = "", options: Mapping[str, Any] | None = None):
        folders = check_folders(data_root, split, name)
        try:
            self.source = create_dataset(name, root=data_root, split=split, **(options or {}))
        except RuntimeError as error:  # timm's word for a folder without images
            raise DataError(f"{data_root}/{split}: {error}") from error
        if isinstance(self.source, IterableDataset):
            raise DataError(f"name={name!r}: a stream without numbered samples; use timm's own training script for it, see docs/timm.md")
        self.source.transform = create_transform(**transform)
        self._moment = torch.zeros(2, dtype=torch.int64).share_memory_()  # seed and epoch; workers that live on see them change
        self.metainfo = {"classes": tuple(self._classes())}
        if folders is not None and "class_map" not in (options or {}) and (odd := set(folders) ^ set(self.metainfo["classes"])):
            names = ", ".join(sorted(odd)[:5])
            raise DataError(f"{data_root}/{split}: expected images directly in each of its folders, and nowhere else; look at: {names}")

    @classmethod
    def check_files(cls, config: Mapping[str, Any], classes: int | None = None) -> None:
        """Raises DataError when the folders of a data set's config are absent, or as many as not ``classes``."""
        found = check_folders(config["data_root"], config["split"], config.get("name", ""))
        if found is not None and classes is not None and len(found) != classes:
            raise DataError(
                f"{config['data_root']}/{config['split']}: has {len(found)} folders of classes, the model has {classes} classes; for other"
                f" data than the config's: --cfg-options model.backbone.num_classes={len(found)}"
            )

    def _classes(self) -> list[str]:
        numbers = getattr(getattr(self.source, "reader", self.source), "class_to_idx", None) or {}
        return [str(name) for name in sorted(numbers, key=numbers.__getitem__)]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation of the coming epoch."""
        self._moment[1] = epoch

    def set_seed(self, seed: int) -> None:
        """Changes the seed of the augmentation."""
        self._moment[0] = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        seed, epoch = self._moment.tolist()
        with seeded(seed, epoch, index):
            image, label = self.source[index]
        name = self.source.filename(index) if hasattr(self.source, "filename") else f"sample {index}"
        return {"inputs": image, "labels": label, "names": str(name)}


def check_folders(data_root: str, split: str, name: str = "") -> list[str] | None:
    """The folders of classes in ``data_root/split``, hidden ones left out; None for other kinds than folders. Raises DataError when there
    is none."""
    if name not in ("", "folder"):
        return None
    folder = Path(data_root) / split
    classes = [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."] if folder.is_dir() else []
    if not classes:
        state = "has no folders" if folder.is_dir() else "there is no such folder"
        raise DataError(
            f"{folder}: {state}; expected one folder for each class with its images, such as {folder}/n01440764/*.JPEG"
            " (data elsewhere: --cfg-options data_root=DIR; layout: docs/image_training.md)"
        )
    return classes
