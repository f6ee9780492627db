"""Fewer words on the console: of many metrics only the headline ones, one learning rate; all of them are in the run's scalars.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor

MOST = 12


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics to show: all when they are at most 12, else those of 3D boxes at moderate difficulty (R40), else the first 12."""
    if len(metrics) <= MOST:
        return dict(metrics)
    chosen = {name: value for name, value in metrics.items() if name.endswith("3D_moderate_R40")}
    return chosen or dict(list(metrics.items())[:MOST])


@LOG_PROCESSORS.register_module()
class ConciseLogProcessor(LogProcessor):
    """mmengine's LogProcessor; lines of a validation or test show the ``headline`` metrics, those of training show no ``base_lr``."""

    def get_log_after_iter(self, *args: Any, **kwargs: Any) -> tuple[dict, str]:
        """All values, and the line for the log."""
        tag, line = super().get_log_after_iter(*args, **kwargs)
        return tag, re.sub(r"(?<!\S)base_lr: \S+\s+", "", line)

    def get_log_after_epoch(self, *args: Any, **kwargs: Any) -> tuple[dict, str]:
        """All values, and the line for the log."""
        tag, line = super().get_log_after_epoch(*args, **kwargs)
        shown = headline(tag)
        for name in tag:
            if name not in shown:
                line = re.sub(rf"(?<!\S){re.escape(name)}: (\[.*?\]|\S+)\s*", "", line)
        return tag, line
