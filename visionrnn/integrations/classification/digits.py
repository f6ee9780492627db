"""scikit-learn's handwritten digits: 1 797 real images of 8 × 8 pixels that come with the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from visionrnn.errors import DataError, MissingPackageError

SUBSETS = ("train", "val", "trainval", "test")
"""The first half of the images in the file's order is for training (``trainval``), the second half is the test, as in scikit-learn's own
example of recognising digits; the last fifth of the first half (``val``) is for choices made before the test."""


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8] of values from 0 to 16, and labels [1797]. Raises MissingPackageError without scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingPackageError("the digits come with scikit-learn, which is not installed; run: pip install scikit-learn") from error
    digits = datasets.load_digits()
    return digits.images.astype(np.float32), digits.target.astype(np.int64)


def split(subset: str, count: int = 1797) -> slice:
    """The places of a subset in the file. Raises DataError for an unknown name."""
    half = count // 2
    places = {"train": (0, half - half // 5), "val": (half - half // 5, half), "trainval": (0, half), "test": (half, count)}
    if subset not in places:
        raise DataError(f"digits: subset={subset!r}; expected one of {', '.join(SUBSETS)}")
    return slice(*places[subset])


@DATASETS.register_module()
class Digits(Dataset):
    """Samples {"inputs": [1, size, size] from -1 to 1, "labels", "names"} of a subset (SUBSETS), enlarged bilinearly to ``size`` pixels."""

    def __init__(self, subset: str, size: int = 32):
        images, labels = load_digits()
        part = split(subset, len(images))
        self.images = F.interpolate(torch.from_numpy(images[part])[:, None] / 8 - 1, (size, size), mode="bilinear", align_corners=False)
        self.labels = torch.from_numpy(labels[part])
        self.first = part.start
        self.metainfo = {"classes": tuple("0123456789")}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.images[index], "labels": self.labels[index], "names": f"digit {self.first + index}"}
