"""The KITTI metric: the official evaluator's answer, cases worked out by hand, distance bands, bad input."""

import json
import time
import zipfile

import numpy as np
import pytest

from visionrnn.datasets.kitti import Labels, read_labels
from visionrnn.errors import DataError
from visionrnn.evaluation.kitti import evaluate

PIXELS = 100.0  # width of the image boxes below; 50 high


def frame(names, places, scores=None, alpha=0.0, height=50.0, occluded=0):
    """Objects of one frame: cars 4 × 1.5 × 2 m at (x, z); the image boxes lie side by side, at 120 pixels for each metre of x."""
    places = np.asarray(places, dtype=float).reshape(-1, 2)
    count = len(places)
    left = places[:, 0] * 1.2 * PIXELS
    return Labels(
        name=np.array(names, dtype=np.str_),
        truncated=np.zeros(count),
        occluded=np.full(count, occluded, dtype=float),
        alpha=np.full(count, alpha),
        box2d=np.stack((left, np.zeros(count), left + PIXELS, np.full(count, height)), 1),
        size=np.tile([4.0, 1.5, 2.0], (count, 1)),
        location=np.stack((places[:, 0], np.ones(count), places[:, 1]), 1),
        rotation_y=np.full(count, alpha),
        score=None if scores is None else np.asarray(scores, dtype=float),
    )


def one_car_frames(count, found=None, false_scores=(), z=20.0, **options):
    """``count`` frames of one car each, the first ``found`` detected with scores 1 - k / 1000; false ones in the first frame."""
    found = count if found is None else found
    truth = [frame(["Car"], [[0, z]]) for _ in range(count)]
    detections = [frame(["Car"] * (k < found), [[0, z]] * (k < found), [1 - k / 1000] * (k < found), **options) for k in range(count)]
    places = [[0, z]] + [[10 + 5 * k, z] for k in range(len(false_scores))]
    detections[0] = frame(["Car"] * len(places), places, [1.0, *false_scores], **options)
    return truth, detections


@pytest.fixture(scope="module")
def golden(shared_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitti_eval")
    with zipfile.ZipFile(shared_dir / "goldens/kitti_eval/frames.zip") as archive:
        archive.extractall(folder)
    expected = json.loads((shared_dir / "goldens/kitti_eval/expected.json").read_text())
    return folder, expected


def test_equals_the_official_evaluator_and_is_fast(golden):
    folder, expected = golden
    truth, found = ([read_labels(path) for path in sorted((folder / part).glob("*.txt"))] for part in ("label_2", "det"))
    result = evaluate(truth, found)
    for name, rows in expected.items():
        for key, values in rows.items():
            assert np.abs(np.subtract(result[name][key], values)).max() < 1e-4, (name, key)
    start = time.perf_counter()
    evaluate((truth * 26)[:3769], (found * 26)[:3769])
    assert time.perf_counter() - start < 60


def test_perfect_detections_score_100():
    truth, found = one_car_frames(80)
    result = evaluate(truth, found)["car"]
    for key in ("image_AP", "bev_AP", "3d_AP", "image_AOS", "3d_AHS"):
        assert result[key] == pytest.approx([100] * 3)
        assert result[key + "_R11"] == pytest.approx([100] * 3)
    assert result["objects"] == [80, 80, 80]


def test_half_of_the_objects_found():
    # 80 objects: ranks 1, 2, 4, 6 … 40 are sampled, 21 of 41 recalls, all with precision 1
    result = evaluate(*one_car_frames(80, found=40))["car"]
    assert result["3d_AP"] == pytest.approx([100 * 20 / 40] * 3)
    assert result["3d_AP_R11"] == pytest.approx([100 * 6 / 11] * 3)


@pytest.mark.parametrize(
    ("score", "r40", "r11"),
    [
        (2.0, 80 / 81, 80 / 81),  # before all: the last precision, 80 of 81, is the best
        (0.9605, (20 + 20 * 80 / 81) / 40, (6 + 5 * 80 / 81) / 11),  # between ranks 40 and 41, the 21st and 22nd sample
        (0.1, 1.0, 1.0),  # after all: below every threshold
    ],
)
def test_one_false_positive(score, r40, r11):
    result = evaluate(*one_car_frames(80, false_scores=[score]))["car"]
    assert result["bev_AP"] == pytest.approx([100 * r40] * 3)
    assert result["bev_AP_R11"] == pytest.approx([100 * r11] * 3)


def test_headings():
    truth, found = one_car_frames(80, alpha=np.pi / 3)  # (1 + cos 60°) / 2 = 0.75
    result = evaluate(truth, found)["car"]
    assert result["image_AOS"] == pytest.approx([75] * 3)
    assert result["image_AOS_R11"] == pytest.approx([75] * 3)
    assert "image_AOS" not in evaluate(*one_car_frames(80, alpha=-10.0))["car"]


def test_few_objects_give_few_samples():
    result = evaluate(*one_car_frames(6))["car"]
    assert result["3d_AP"] == pytest.approx([100 * 5 / 40] * 3)
    assert result["3d_AP_R11"] == pytest.approx([100 * 2 / 11] * 3)


def test_difficulties():
    truth, found = one_car_frames(80)
    truth = [frame(["Car"], [[0, 20]], occluded=1) for _ in truth]
    assert evaluate(truth, found)["car"]["objects"] == [0, 80, 80]
    assert evaluate(truth, found)["car"]["3d_AP"] == pytest.approx([0, 100, 100])
    low_truth = [frame(["Car"], [[0, 20]], height=30.0) for _ in truth]
    assert evaluate(low_truth, found)["car"]["objects"] == [0, 80, 80]


def test_neighbouring_classes_and_dontcare_are_no_errors():
    truth, found = one_car_frames(80, false_scores=[2.0])  # the false one at x = 10
    van = [frame(["Car", "Van"], [[0, 20], [10, 20]]), *truth[1:]]
    assert evaluate(van, found)["car"]["3d_AP"] == pytest.approx([100] * 3)
    stuff = frame(["Car", "DontCare"], [[0, 20], [10, 20]])
    stuff.size[1], stuff.location[1] = -1, -1000
    result = evaluate([stuff, *truth[1:]], found)["car"]
    assert result["image_AP"] == pytest.approx([100] * 3)
    assert result["3d_AP"] == pytest.approx([100 * 80 / 81] * 3)
    truck = [frame(["Car", "Truck"], [[0, 20], [10, 20]]), *truth[1:]]
    assert evaluate(truck, found)["car"]["image_AP"] == pytest.approx([100 * 80 / 81] * 3)


def test_distance_bands():
    near, near_found = one_car_frames(80, z=29.9)
    far, far_found = one_car_frames(80, found=40, false_scores=[2.0], z=40)
    near_found = [frame(["Car"], [[0, 30.05]], scores.score) for scores in near_found]  # found from just outside the band
    result = evaluate(near + far, near_found + far_found)["car"]["distance"]
    assert result["0-30"]["objects"] == [80] * 3
    assert result["0-30"]["3d_AP"] == pytest.approx([100] * 3)
    assert result["30-50"]["3d_AP"] == pytest.approx([100 * 20 / 40 * 40 / 41] * 3)
    assert result["50-inf"]["objects"] == [0] * 3
    assert result["50-inf"]["3d_AP"] == [0] * 3
    assert list(evaluate(near, near_found, ["car"], distance_bands=[(0, 20.5)])["car"]["distance"]) == ["0-20.5"]


def test_frames_without_objects_or_detections():
    none, none_found = frame([], []), frame([], [], [])
    result = evaluate([none, none], [none_found, frame(["Car"], [[0, 20]], [0.9])])
    assert result["car"]["3d_AP"] == [0, 0, 0]
    assert evaluate([], [])["cyclist"]["image_AP"] == [0, 0, 0]
    assert evaluate([frame(["Car"], [[0, 20]])], [none_found])["car"]["objects"] == [1, 1, 1]


def test_mappings_are_frames_too():
    truth, found = one_car_frames(80, found=40)
    as_mappings = [[vars(item) for item in side] for side in (truth, found)]
    assert evaluate(*as_mappings) == evaluate(truth, found)


def test_bad_input_is_named():
    good, detection = vars(frame(["Car"], [[0, 20]])), vars(frame(["Car"], [[0, 20]], [0.9]))
    with pytest.raises(DataError, match="detections: 0 frames, but ground_truth has 1"):
        evaluate([good], [])
    with pytest.raises(DataError, match=r"detections\[0\]: has no 'score'"):
        evaluate([good], [good])
    with pytest.raises(DataError, match=r"detections\[0\]: size has shape \[1, 2\], expected \[1, 3\]"):
        evaluate([good], [{**detection, "size": np.ones((1, 2))}])
    with pytest.raises(DataError, match=r"detections\[0\]: score holds NaN"):
        evaluate([good], [{**detection, "score": np.array([np.nan])}])
    with pytest.raises(DataError, match="does not score"):
        evaluate([good], [detection], classes=["tram"])
