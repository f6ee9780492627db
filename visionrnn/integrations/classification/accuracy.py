"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor


def in_top(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Whether the label is among the ``count`` highest scores; [B, classes], [B] → [B]. A row that is not finite is wrong."""
    highest = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return (highest == labels[:, None]).any(1) & torch.isfinite(scores).all(1)


@METRICS.register_module()
class TopAccuracy(BaseMetric):
    """Percentage of images whose label is among the ``top`` highest scores: ``accuracy/top1``, ``accuracy/top5``; and ``accuracy/images``,
    how many there were.

    Reads the predictions of ImageClassifier. Several processes are counted together, repeated images once.
    """

    default_prefix = "accuracy"

    def __init__(self, top: Sequence[int] = (1, 5), **options: Any):
        super().__init__(**options)
        if not top or min(top) < 1:
            raise ValueError(f"top={top!r}; expected numbers of 1 or more")
        self.top = tuple(top)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Takes the predictions of a batch: dicts with ``scores`` [classes] and ``label``."""
        scores = torch.stack([sample["scores"] for sample in data_samples])
        labels = torch.tensor([sample["label"] for sample in data_samples])
        self.results += torch.stack([in_top(scores, labels, count) for count in self.top], 1).tolist()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """{"top1": percent, "top5": percent, "images": count}."""
        right = torch.tensor(results, dtype=torch.float64).mean(0) * 100
        return {**{f"top{count}": float(share) for count, share in zip(self.top, right, strict=True)}, "images": len(results)}
