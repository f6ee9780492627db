"""Detection heads whose loss does not depend on how the batch is split over processes."""

from __future__ import annotations

from typing import Any

from mmdet3d.models.dense_heads import Anchor3DHead
from mmdet3d.registry import MODELS

from visionrnn.integrations.mmengine.distributed import mean_over_ranks


@MODELS.register_module()
class AnchorHead3D(Anchor3DHead):
    """mmdet3d's Anchor3DHead, its losses divided by the positive anchors of the whole batch, over all processes.

    Dividing by the mean count of the processes and averaging the gradients, as DistributedDataParallel does, gives the gradients of one
    process with the whole batch. Options and parameters are Anchor3DHead's.
    """

    def anchor_target_3d(self, *args: Any, **kwargs: Any) -> tuple | None:
        """As mmdet3d's; the last two values, the numbers of positive and negative anchors, are means over the processes."""
        targets = super().anchor_target_3d(*args, **kwargs)
        if targets is None:
            return None
        *lists, positives, negatives = targets
        device = lists[0][0].device
        return (*lists, mean_over_ranks(positives, device), mean_over_ranks(negatives, device))
