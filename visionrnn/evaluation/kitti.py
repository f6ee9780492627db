"""The KITTI object detection benchmark: image, bird's-eye and 3D average precision and orientation similarity, on a CPU.

Source: A. Geiger et al., "Are we ready for autonomous driving?", CVPR 2012, and the rules of the benchmark's development kit;
40 recall positions after A. Simonelli et al., "Disentangling monocular 3D object detection", ICCV 2019. The rules:

- A detection finds an object of its class when their overlap is above 0.7 (car) or 0.5 (pedestrian, cyclist), in the image, from
  above or in 3D. Objects of a neighbouring class (Van, Person_sitting) and objects beyond the difficulty's limits of height in the image,
  occlusion and truncation need not be found, and finding them is no error. Detections lower in the image than the limit of
  the difficulty are not counted.
- In the image metric, detections that lie in DontCare regions are not counted. From above and in 3D those regions have no extent.
- Orientation (AOS, and AHS from above and in 3D): a found object counts (1 + cos of the error) / 2, of alpha, or of rotation_y.

By distance: the same for objects in a band [low, high) of the distance on the ground plane, sqrt(x² + z²), of the box's bottom centre
from the camera. Objects outside the band are ignored. A detection outside it that finds an object inside is a true positive; one
that finds no object is not counted. Detections inside the band that find an object outside it are not counted either.

Command: ``python -m visionrnn.evaluation.kitti LABEL_DIR DETECTION_DIR [--json FILE]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionrnn.datasets.kitti import Labels
from visionrnn.errors import DataError
from visionrnn.evaluation.average_precision import average, sample_thresholds
from visionrnn.evaluation.frames import Table, tabulate
from visionrnn.evaluation.matching import ABSENT, COUNTED, IGNORED, Matcher
from visionrnn.evaluation.overlaps import Pairs, covered_share, find_pairs

CLASSES = ("car", "pedestrian", "cyclist")
DIFFICULTIES = ("easy", "moderate", "hard")
METRICS = ("image", "bev", "3d")
MIN_OVERLAP = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
MIN_HEIGHT = (40, 25, 25)  # pixels
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
DISTANCE_BANDS = ((0.0, 30.0), (30.0, 50.0), (50.0, float("inf")))  # metres
NO_ALPHA = -10  # what detectors without an orientation write


def evaluate(
    ground_truth: Sequence[Labels | Mapping[str, Any]],
    detections: Sequence[Labels | Mapping[str, Any]],
    classes: Sequence[str] = CLASSES,
    distance_bands: Sequence[tuple[float, float]] = DISTANCE_BANDS,
) -> dict[str, dict[str, Any]]:
    """Scores ``detections`` [F frames] against ``ground_truth`` [F frames], in the same order of frames.

    A frame is ``Labels`` or a mapping with the same fields: name [N]; truncated, occluded [N] (ground truth only); alpha [N];
    box2d [N, 4] x1, y1, x2, y2 in pixels; size [N, 3] l, h, w and location [N, 3] bottom centre, metres, camera frame;
    rotation_y [N]; score [N] (detections only).

    Returns class → {"image_AP", "image_AOS", "bev_AP", "bev_AHS", "3d_AP", "3d_AHS": [easy, moderate, hard] in percent over 40 recalls;
    the same names with "_R11" over 11; "objects": how many count per difficulty; "distance": {"0-30": the same, …}}.
    AOS and AHS are left out when a detection has alpha = -10, as the benchmark's own evaluator does.
    With fewer than 41 objects AP stays below 100 even for perfect detections, also by the benchmark's rule.
    Raises DataError for lists of unequal length, missing fields, wrong shapes or NaN scores.
    """
    if len(ground_truth) != len(detections):
        raise DataError(f"detections: {len(detections)} frames, but ground_truth has {len(ground_truth)}; expected equal numbers")
    unknown = [name for name in classes if name.lower() not in MIN_OVERLAP]
    if unknown:
        raise DataError(f"classes: KITTI does not score {unknown}; expected some of {list(CLASSES)}")
    truth = tabulate(ground_truth, "ground_truth", ("truncated", "occluded"))
    found = tabulate(detections, "detections", ("score",))
    scored = np.flatnonzero(np.isin(truth.name, [*MIN_OVERLAP, *NEIGHBOURS.values()]))
    stuff = truth.name == "dontcare"
    share = covered_share(truth.frame[stuff], found.frame, truth.labels.box2d[stuff], found.labels.box2d)
    truth = Table(truth.frame[scored], truth.name[scored], truth.labels[scored])
    pairs = find_pairs(
        truth.frame,
        found.frame,
        (truth.labels.box2d, found.labels.box2d),
        (truth.labels.boxes, found.labels.boxes),
        min(MIN_OVERLAP.values()),
    )
    headings = not bool((found.labels.alpha == NO_ALPHA).any())
    return {name.lower(): _score_class(name.lower(), truth, found, pairs, share, distance_bands, headings) for name in classes}


def _score_class(
    name: str, truth: Table, found: Table, pairs: dict[str, Pairs], share: np.ndarray, bands: Sequence[tuple[float, float]], headings: bool
) -> dict[str, Any]:
    own_truth, own = truth.name == name, found.name == name
    neighbour = truth.name == NEIGHBOURS.get(name, "")
    # detections of other classes matter too: those below the height limit may be taken, as ignored ones, in place of a miss
    low = found.height < max(MIN_HEIGHT)
    matchers = {}
    for metric in METRICS:
        table = pairs[metric]
        kept = table.where((table.overlap > MIN_OVERLAP[name]) & (own_truth | neighbour)[table.truth] & (own | low)[table.detection])
        field = "alpha" if metric == "image" else "rotation_y"
        error = getattr(truth.labels, field)[kept.truth] - getattr(found.labels, field)[kept.detection]
        matchers[metric] = Matcher(kept, (1 + np.cos(error)) / 2, truth.frame)
    exempt = {metric: share > MIN_OVERLAP[name] if metric == "image" else np.zeros(len(share), bool) for metric in METRICS}
    everywhere = _score_band(truth, found, own_truth, neighbour, own, matchers, exempt, (-np.inf, np.inf), headings)
    everywhere["distance"] = {
        band_name(band): _score_band(truth, found, own_truth, neighbour, own, matchers, exempt, band, headings) for band in bands
    }
    return everywhere


def band_name(band: tuple[float, float]) -> str:
    """(30.0, 50.0) → "30-50"; an open end is "inf"."""
    return f"{band[0]:g}-{band[1]:g}"


def _score_band(
    truth: Table,
    found: Table,
    own_truth: np.ndarray,
    neighbour: np.ndarray,
    own: np.ndarray,
    matchers: dict[str, Matcher],
    exempt: dict[str, np.ndarray],
    band: tuple[float, float],
    headings: bool,
) -> dict[str, Any]:
    inside = (truth.distance >= band[0]) & (truth.distance < band[1])
    outside = (found.distance < band[0]) | (found.distance >= band[1])
    score, labels = found.labels.score, truth.labels
    assert score is not None
    rows: dict[str, list[float]] = {}
    objects = []
    for level in range(len(DIFFICULTIES)):
        within = (
            (labels.occluded <= MAX_OCCLUSION[level]) & (labels.truncated <= MAX_TRUNCATION[level]) & (truth.height > MIN_HEIGHT[level])
        )
        truth_state = np.select([own_truth & within & inside, own_truth | neighbour], [COUNTED, IGNORED], ABSENT)
        state = np.select([np.abs(found.height) < MIN_HEIGHT[level], own], [IGNORED, COUNTED], ABSENT)
        objects.append(int((truth_state == COUNTED).sum()))
        for metric, matcher in matchers.items():
            thresholds = sample_thresholds(matcher.true_scores(truth_state, state, score), objects[-1])
            counts = matcher.count(truth_state, state, score, exempt[metric] | outside, thresholds)
            number = np.maximum(counts.true + counts.false, 1)
            shares = {f"{metric}_AP": counts.true / number}
            if headings:
                shares[f"{metric}_AOS" if metric == "image" else f"{metric}_AHS"] = counts.similarity / number
            for key, share in shares.items():
                for suffix, value in zip(("", "_R11"), average(share), strict=True):
                    rows.setdefault(key + suffix, []).append(value)
    plain = {key: value for key, value in rows.items() if not key.endswith("_R11")}
    return {**plain, **{key: value for key, value in rows.items() if key not in plain}, "objects": objects}


if __name__ == "__main__":
    import sys

    from visionrnn.evaluation.kitti_command import main

    sys.exit(main())
