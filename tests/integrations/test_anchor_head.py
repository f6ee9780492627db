"""The anchor head's suppression over all classes, against mmdet3d's class by class where both must agree, and where they differ."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d")

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
META = [{"box_type_3d": LiDARInstance3DBoxes}]
HEIGHT, WIDTH = 8, 10


@pytest.fixture(scope="module")
def heads():
    """Two heads on a map of 8 × 10 cells, the second with suppression over all classes."""
    cfg = Config.fromfile(ROOT / "configs/_base_/models/anchor_head_3d-3class.py").model
    made = []
    for class_agnostic in (False, True):
        options = copy.deepcopy(cfg.bbox_head)
        test_cfg = {**cfg.test_cfg, "class_agnostic": class_agnostic, "score_thr": 0.3}
        made.append(MODELS.build({**options, "train_cfg": cfg.train_cfg, "test_cfg": Config(test_cfg)}))
    return made


def maps(seed: int) -> tuple[list[torch.Tensor], ...]:
    """No scores, small codes, random directions."""
    generator = torch.Generator().manual_seed(seed)
    codes, directions = (torch.randn(1, 6 * width, HEIGHT, WIDTH, generator=generator) for width in (7, 2))
    return [torch.full((1, 18, HEIGHT, WIDTH), -9.0)], [codes * 0.1], [directions]


def test_boxes_apart_are_the_same(heads):
    """Car, Pedestrian and Cyclist anchors far apart: boxes, directions, scores and labels agree with mmdet3d's."""
    scores, codes, directions = maps(0)
    for anchor, y, x, logit in ((0, 1, 1, 2.0), (1, 6, 8, 1.0), (2, 1, 8, 0.5), (5, 6, 1, 3.0), (4, 4, 5, -1.0)):
        scores[0][0, anchor * 3 + anchor // 2, y, x] = logit
    ours, mmdet3ds = (head.predict_by_feat(scores, codes, directions, batch_input_metas=META)[0] for head in reversed(heads))
    order = mmdet3ds.scores_3d.argsort(descending=True)
    assert ours.labels_3d.tolist() == mmdet3ds.labels_3d[order].tolist() == [2, 0, 0, 1]
    torch.testing.assert_close(ours.scores_3d, mmdet3ds.scores_3d[order])
    torch.testing.assert_close(ours.bboxes_3d.tensor, mmdet3ds.bboxes_3d.tensor[order])


def test_of_overlapping_classes_the_best_stays(heads):
    """An anchor with two good classes, and a cyclist's and a pedestrian's anchor at one place."""
    scores, codes, directions = maps(1)
    scores[0][0, 0:2, 2, 2] = torch.tensor([2.0, 1.0])
    scores[0][0, 2 * 3 + 1, 6, 7], scores[0][0, 4 * 3 + 2, 6, 7] = 1.0, 1.5
    by_class, together = (head.predict_by_feat(scores, codes, directions, batch_input_metas=META)[0] for head in heads)
    assert sorted(by_class.labels_3d.tolist()) == [0, 1, 1, 2]
    assert together.labels_3d.tolist() == [0, 2]
    assert together.scores_3d.tolist() == pytest.approx(torch.tensor([2.0, 1.5]).sigmoid().tolist())


def test_nothing_found(heads):
    assert all(len(head.predict_by_feat(*maps(2), batch_input_metas=META)[0].bboxes_3d) == 0 for head in heads)
