"""Image classifiers with mmengine's runner: model, data sets, augmentation and accuracy. Needs mmengine, timm and torchvision, not mmdet3d.

Importing it registers all parts with mmengine. Raises MissingPackageError when one of the packages is not installed.
"""

from __future__ import annotations

import importlib.util

from visionrnn.errors import MissingPackageError

if absent := [package for package in ("mmengine", "timm", "torchvision") if importlib.util.find_spec(package) is None]:
    raise MissingPackageError(f"{', '.join(absent)} not installed; training image classifiers needs: pip install 'visionrnn[train]'")

from visionrnn.integrations.classification import accuracy, augment, positions_hook, schedule  # noqa: F401  (they register themselves)
from visionrnn.integrations.classification.datasets import ImageFolders
from visionrnn.integrations.classification.digits import Digits
from visionrnn.integrations.classification.model import ImageClassifier

__all__ = ["Digits", "ImageClassifier", "ImageFolders"]
