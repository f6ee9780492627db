"""Detection heads whose loss does not depend on how the batch is split over processes."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.models.dense_heads import Anchor3DHead
from mmdet3d.registry import MODELS
from mmdet3d.structures import limit_period
from mmengine.structures import InstanceData
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common.boxes import nms_3d
from visionrnn.integrations.mmengine.distributed import mean_over_ranks


@MODELS.register_module()
class AnchorHead3D(Anchor3DHead):
    """mmdet3d's Anchor3DHead, its losses divided by the positive anchors of the whole batch, over all processes.

    Dividing by the mean count of the processes and averaging the gradients, as DistributedDataParallel does, gives the gradients of one
    process with the whole batch. Options and parameters are Anchor3DHead's. With ``class_agnostic=True`` in ``test_cfg`` an anchor is a
    candidate for its best class only and suppression runs over all classes together, as in the published LION on KITTI; without it, class
    by class as in mmdet3d. The head's class scores must then be sigmoids.
    """

    def anchor_target_3d(self, *args: Any, **kwargs: Any) -> tuple | None:
        """As mmdet3d's; the last two values, the numbers of positive and negative anchors, are means over the processes."""
        targets = super().anchor_target_3d(*args, **kwargs)
        if targets is None:
            return None
        *lists, positives, negatives = targets
        device = lists[0][0].device
        return (*lists, mean_over_ranks(positives, device), mean_over_ranks(negatives, device))

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        dir_cls_pred_list: list[Tensor],
        mlvl_priors: list[Tensor],
        input_meta: dict,
        cfg: Any = None,
        **kwargs: Any,
    ) -> InstanceData:
        """Boxes of one sample from the maps [anchors · numbers, Y, X] and anchors [Y · X · anchors, 7] of each level."""
        cfg = self.test_cfg if cfg is None else cfg
        if not cfg.get("class_agnostic", False):
            maps = cls_score_list, bbox_pred_list, dir_cls_pred_list, mlvl_priors
            return super()._predict_by_feat_single(*maps, input_meta, cfg, **kwargs)
        scores, codes, directions = (
            torch.cat([level.permute(1, 2, 0).reshape(-1, width) for level in levels])
            for levels, width in ((cls_score_list, self.num_classes), (bbox_pred_list, self.box_code_size), (dir_cls_pred_list, 2))
        )
        best, labels = scores.max(1)
        best = best.sigmoid()
        found = (best > cfg.get("score_thr", 0)).nonzero().squeeze(1)
        pre = cfg.get("nms_pre", -1)
        found = found[best[found].topk(min(pre, len(found)) if pre > 0 else len(found)).indices]
        boxes = self.bbox_coder.decode(torch.cat(mlvl_priors)[found], codes[found])
        kept = nms_3d(boxes, best[found], cfg.nms_thr, post=cfg.max_num)
        boxes, found = boxes[kept], found[kept]
        half_turn = limit_period(boxes[:, 6] - self.dir_offset, self.dir_limit_offset, torch.pi)
        boxes[:, 6] = half_turn + self.dir_offset + torch.pi * directions[found].argmax(1)
        boxes = input_meta["box_type_3d"](boxes, box_dim=self.box_code_size)
        return InstanceData(bboxes_3d=boxes, scores_3d=best[found], labels_3d=labels[found])
