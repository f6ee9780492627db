"""The assignment over all frames at once equals the sequential rule, object by object."""

import numpy as np
import pytest

from visionrnn.evaluation import overlaps
from visionrnn.evaluation.matching import ABSENT, COUNTED, IGNORED, Matcher
from visionrnn.evaluation.overlaps import Pairs, covered_share, ground_overlaps, image_overlap, pairs_in_frames


def sequential(pairs, truth_state, state, score, threshold=None):
    """The rule: by score when ``threshold`` is None, or else by overlap among the detections that reach it. [(object, detection)]."""
    taken, chosen = set(), []
    for truth in range(len(truth_state)):
        best = None
        for _, detection, overlap in (pair for pair in zip(pairs.truth, pairs.detection, pairs.overlap, strict=True) if pair[0] == truth):
            if truth_state[truth] == ABSENT or state[detection] == ABSENT or detection in taken:
                continue
            if threshold is not None and score[detection] < threshold:
                continue
            rank = score[detection] if threshold is None else (state[detection] == COUNTED, overlap * (state[detection] == COUNTED))
            if best is None or rank > best[0]:
                best = (rank, detection)
        if best is not None:
            taken.add(best[1])
            chosen.append((truth, best[1]))
    return chosen


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_sequential_rule(seed):
    random = np.random.default_rng(seed)
    truth_frame, found_frame = (np.sort(random.integers(0, 6, count)) for count in (30, 60))
    truth, detection = next(pairs_in_frames(truth_frame, found_frame))
    near = random.random(len(truth)) < 0.4
    pairs = Pairs(truth[near], detection[near], random.integers(51, 60, near.sum()) / 100)  # with ties
    truth_state, state = (random.choice([COUNTED, IGNORED, ABSENT], count, p=[0.6, 0.2, 0.2]) for count in (30, 60))
    score, exempt = random.integers(-10, 10, 60) / 10, random.random(60) < 0.2
    similarity = random.random(len(pairs.truth))
    matcher = Matcher(pairs, similarity, truth_frame)

    hits = [d for t, d in sequential(pairs, truth_state, state, score) if truth_state[t] == COUNTED == state[d]]
    assert sorted(matcher.true_scores(truth_state, state, score)) == sorted(score[hits])

    thresholds = np.unique(score)[::-1]
    counts = matcher.count(truth_state, state, score, exempt, thresholds)
    value = dict(zip(zip(pairs.truth, pairs.detection, strict=True), similarity, strict=True))
    for column, threshold in enumerate(thresholds):
        chosen = sequential(pairs, truth_state, state, score, threshold)
        hits = [pair for pair in chosen if truth_state[pair[0]] == COUNTED == state[pair[1]]]
        taken = {d for _, d in chosen}
        false = [d for d in range(60) if state[d] == COUNTED and score[d] >= threshold and d not in taken and not exempt[d]]
        assert counts.true[column] == len(hits)
        assert counts.false[column] == len(false)
        assert counts.similarity[column] == pytest.approx(sum(value[pair] for pair in hits))


def test_pairs_in_frames_in_every_chunking(monkeypatch):
    a, b = np.array([0, 0, 2, 3, 3, 7]), np.array([0, 1, 2, 2, 3, 9])
    expected = [(i, j) for i in range(6) for j in range(6) if a[i] == b[j]]
    for size in (1, 2, 100):
        monkeypatch.setattr(overlaps, "PAIRS_PER_CHUNK", size)
        assert [pair for i, j in pairs_in_frames(a, b) for pair in zip(i, j, strict=True)] == expected


def test_image_overlap_by_hand():
    a, b = np.array([[0.0, 0, 10, 10]] * 3), np.array([[5.0, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]])
    assert image_overlap(a, b) == pytest.approx([1 / 3, 0, 0.04])
    assert image_overlap(a, b, over="b") == pytest.approx([0.5, 0, 1])
    assert covered_share(np.array([0, 0]), np.array([0, 1]), a[:2], b[:2]) == pytest.approx([0.5, 0])


def test_ground_overlaps_by_hand():
    box = np.array([[0.0, 2, 20, 4, 2, 2, 0]])  # bottom at y = 2 (y points down), top at 0; 4 m along x, 2 m along z
    others = np.array(
        [
            [2.0, 2, 20, 4, 2, 2, 0],  # half a length on
            [0.0, 1, 20, 4, 2, 2, 0],  # half a height up
            [0.0, 2, 20, 4, 2, 2, np.pi / 2],  # across
            [1.0, 2, 19, 2 * np.sqrt(2), 2, 1e-9, np.pi / 4],  # along (1, -1): turning by ry takes the front to -z
        ]
    )
    from_above, volume = ground_overlaps(np.repeat(box, 4, 0), others)
    assert from_above[:3] == pytest.approx([1 / 3, 1, 1 / 3])
    assert volume[:3] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert from_above[3] * 8 / 1e-9 == pytest.approx(np.sqrt(2), rel=1e-6)  # half of that line lies inside
