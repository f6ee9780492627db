"""The drawn shapes of ``visionrnn create-data shapes`` as a data set of mmdet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmengine.registry import DATASETS

from visionrnn.datasets.drawn_shapes import CLASSES
from visionrnn.errors import DataError
from visionrnn.integrations import mmcv_ops

mmcv_ops.install()  # before mmdet is imported

from mmdet.datasets import CocoDataset  # noqa: E402


@DATASETS.register_module()
class DrawnShapes(CocoDataset):
    """mmdet's CocoDataset with the classes of the drawn shapes."""

    METAINFO: ClassVar = dict(classes=CLASSES, palette=[(213, 94, 0), (0, 114, 178), (0, 158, 115)])

    @staticmethod
    def check_files(config: Mapping[str, Any], _classes: int | None = None) -> None:
        """Raises DataError, with the command that makes them, when the files are missing."""
        root = Path(config.get("data_root") or "")
        path = root / config["ann_file"]
        if not path.is_file():
            raise DataError(
                f"{path}: the annotation file is missing; draw the pictures with: visionrnn create-data shapes --out {root}"
                " (data elsewhere: --cfg-options data_root=DIR)"
            )
