"""Average precision in the LiDAR's frame: cases worked out by hand, ignored objects, a slow second version."""

import numpy as np
import pytest
import torch

from visionrnn.errors import DataError
from visionrnn.evaluation.lidar import Boxes, average_precision
from visionrnn.geometry import rotated_iou

CAR = (4.0, 2.0, 1.5)


def frame(*rows, scores=None):
    """Rows (x, y, label) or (x, y, label, yaw); cars on z = -1."""
    boxes = np.array([[row[0], row[1], -1.0, *CAR, row[3] if len(row) > 3 else 0.3] for row in rows]).reshape(-1, 7)
    return Boxes(boxes, np.array([row[2] for row in rows], dtype=np.int64), None if scores is None else np.array(scores))


def test_perfect_detections_have_100():
    truth = [frame((5, 0, 0), (40, 3, 0), (10, -4, 1)), frame(), frame((60, 0, 0))]
    found = [Boxes(f.boxes.copy(), f.labels, np.linspace(0.2, 0.9, len(f.labels))) for f in truth]
    cars, others, nothing = average_precision(truth, found, [0.7, 0.5, 0.5])
    assert cars["AP"] == others["AP"] == 100 and (cars["objects"], others["objects"]) == (3, 1)
    assert [band["objects"] for band in cars["bands"]] == [1, 1, 1] and all(band["AP"] == 100 for band in cars["bands"])
    assert nothing["objects"] == 0 and np.isnan(nothing["AP"])
    turned = [Boxes(f.boxes + [0, 0, 0, 0, 0, 0, np.pi], f.labels, np.ones(len(f.labels))) for f in truth]
    assert average_precision(truth, turned, [0.7])[0]["AP"] == 100  # the same place, whatever the heading


def test_by_hand():
    truth = [frame((5, 0, 0), (20, 0, 0)), frame((5, 0, 0), (20, 0, 0))]
    # right, wrong, right (0.9, 0.8, 0.7); the second of the same object (0.6) is wrong; the fourth object is never found; wrong class
    found = [frame((5, 0, 0), (5.1, 0, 0), (12, 9, 0), scores=[0.9, 0.6, 0.8]), frame((20, 0, 0), (5, 0, 1), scores=[0.7, 0.95])]
    result = average_precision(truth, found, [0.7, 0.7])[0]
    assert result["AP"] == pytest.approx(100 * (10 * 1.0 + 10 * 2 / 3) / 40)  # precision 1 to recall 1/4, then 2/3 to 1/2, then 0
    assert result["objects"] == 4
    assert average_precision(truth, [frame(scores=[]), frame(scores=[])], [0.7])[0]["AP"] == 0
    assert average_precision([], [], [0.7])[0]["objects"] == 0


def test_overlap_in_3d_decides():
    truth = [frame((10, 0, 0))]
    raised = Boxes(truth[0].boxes + [0, 0, 0.5, 0, 0, 0, 0], truth[0].labels, np.ones(1))  # 1.0 of 1.5 m in common: IoU 0.5
    assert average_precision(truth, [raised], [0.49])[0]["AP"] == 100
    assert average_precision(truth, [raised], [0.51])[0]["AP"] == 0


def test_equal_scores_are_one_step():
    truth = [frame((5, 0, 0)), frame((5, 0, 0))]
    found = [frame((5, 0, 0), (30, 9, 0), scores=[0.5, 0.5]), frame((5, 0, 0), scores=[0.5])]
    for order in ([0, 1], [1, 0]):
        turned = [Boxes(found[0].boxes[order], found[0].labels, found[0].scores), found[1]]
        assert average_precision(truth, turned, [0.7])[0]["AP"] == pytest.approx(100 * 2 / 3)


def test_outside_range_and_band_nothing_counts():
    limit = (-50, -50, -5, 50, 50, 3)
    truth = [frame((10, 0, 0), (49.9, 0, 0), (51, 0, 0))]
    found = [frame((10, 0, 0), (51, 0, 0), (70, 0, 0), scores=[0.7, 0.9, 0.8])]  # one right, two that do not count
    result = average_precision(truth, found, [0.7], limit)[0]
    assert result["objects"] == 2 and result["AP"] == 50
    near, middle, far = result["bands"]
    assert (near["AP"], near["objects"], middle["AP"], middle["objects"], far["objects"]) == (100, 1, 0, 1, 0)


def slow(truth, found, least):
    """The definition, object by object."""
    rows = sorted(((s, f, i) for f, frame in enumerate(found) for i, s in enumerate(frame.scores)), key=lambda row: -row[0])
    free = [set(range(len(frame.labels))) for frame in truth]
    right = []
    for _, f, i in rows:
        box = found[f].boxes[i]
        best, overlap = None, least
        for j in free[f]:
            other = truth[f].boxes[j]
            flat = rotated_iou(torch.tensor(box[[0, 1, 3, 4, 6]])[None], torch.tensor(other[[0, 1, 3, 4, 6]])[None]).item()
            if flat > overlap:  # all at one height: the same in 3D
                best, overlap = j, flat
        if best is not None:
            free[f].discard(best)
        right.append(best is not None)
    number = sum(len(frame.labels) for frame in truth)
    true = np.cumsum(right)
    precision = true / np.arange(1, len(true) + 1)
    return 100 * np.mean([max(precision[true >= r * number / 40 - 1e-9], default=0) for r in range(1, 41)])


def test_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(6):
        places = rng.uniform(-20, 20, (12, 2))
        truth.append(frame(*[(x, y, 0, rng.uniform(-3, 3)) for x, y in places]))
        noisy = np.concatenate([truth[-1].boxes, truth[-1].boxes])
        noisy[:, [0, 1, 6]] += rng.normal(0, 0.5, (24, 3))
        found.append(Boxes(noisy, np.zeros(24, np.int64), rng.uniform(size=24)))
    for least in (0.3, 0.5):
        assert average_precision(truth, found, [least])[0]["AP"] == pytest.approx(slow(truth, found, least))
    assert 5 < slow(truth, found, 0.5) < 95


def test_bad_input():
    with pytest.raises(DataError, match="found: 0 frames, but truth has 1"):
        average_precision([frame()], [], [0.5])
    with pytest.raises(DataError, match="a frame has no scores"):
        average_precision([frame()], [frame()], [0.5])
