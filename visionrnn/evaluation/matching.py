"""KITTI's greedy assignment of detections to objects, for all frames and all score thresholds at once.

Within a frame the assignment is sequential: objects choose in file order, and a detection is chosen once. Frames are independent, so step
r lets the r-th object of every frame choose; a step is a few array operations over [objects, candidates, thresholds].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visionrnn.evaluation.overlaps import Pairs

COUNTED, IGNORED, ABSENT = 0, 1, -1  # states of objects and detections


@dataclass(frozen=True)
class _Step:
    """One object of each of ``n`` frames: ``truth`` [n]; its candidates [n, K] as rows of the matcher's table, padded; [n, K] values."""

    truth: np.ndarray
    candidates: np.ndarray
    overlap: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Counts:
    """Per threshold [T]: true and false positives, and the sum of the heading similarities of the true ones."""

    true: np.ndarray
    false: np.ndarray
    similarity: np.ndarray


class Matcher:
    """Assigns detections to objects, given the pairs that overlap enough.

    ``pairs``: ordered by object, then by detection, both in file order; ``similarity`` [P]: (1 + cos of the difference of headings) / 2;
    ``truth_frame`` [N]: frame of each object.
    """

    def __init__(self, pairs: Pairs, similarity: np.ndarray, truth_frame: np.ndarray):
        # self.rows: the detections that occur in pairs; one more row, never available, pads the candidates
        self.rows, candidate = np.unique(pairs.detection, return_inverse=True)
        truth, first, count = np.unique(pairs.truth, return_index=True, return_counts=True)
        frames, frame_start, per_frame = np.unique(truth_frame[truth], return_index=True, return_counts=True)
        rank = np.arange(len(truth)) - np.repeat(frame_start, per_frame)
        self.steps = []
        for step in range(int(per_frame.max()) if len(frames) else 0):
            chosen = np.flatnonzero(rank == step)
            slot = np.arange(count[chosen].max())
            real = slot < count[chosen, None]  # [n, K]
            index = np.where(real, first[chosen, None] + slot, 0)
            padded = np.where(real, candidate[index], len(self.rows))
            self.steps.append(_Step(truth[chosen], padded, pairs.overlap[index], similarity[index]))

    def _table(self, values: np.ndarray, padding: float) -> np.ndarray:
        return np.append(values[self.rows], padding)

    def true_scores(self, truth_state: np.ndarray, state: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Scores of the detections that are true positives when each object takes its best-scored candidate.

        ``truth_state`` [N], ``state`` [M]: COUNTED, IGNORED or ABSENT; ``score`` [M].
        """
        states, scores = self._table(state, ABSENT), self._table(score, 0)
        free = states != ABSENT
        found = []
        for step in self.steps:
            key = np.where(free[step.candidates], scores[step.candidates], -np.inf)
            choice = np.take_along_axis(step.candidates, key.argmax(1)[:, None], 1)[:, 0]
            takes = free[choice] & (truth_state[step.truth] != ABSENT)
            taken = choice[takes]
            free[taken] = False
            found.append(scores[taken[(truth_state[step.truth[takes]] == COUNTED) & (states[taken] == COUNTED)]])
        return np.concatenate(found) if found else np.zeros(0)

    def count(self, truth_state: np.ndarray, state: np.ndarray, score: np.ndarray, exempt: np.ndarray, thresholds: np.ndarray) -> Counts:
        """Counts at score thresholds [T]: each object takes its best-overlapping counted candidate, or else its first ignored one.

        ``exempt`` [M]: detections that are no false positives when no object takes them.
        """
        states, scores = self._table(state, ABSENT), self._table(score, -np.inf)
        free = (states != ABSENT)[:, None] & (scores[:, None] >= thresholds)  # [rows + 1, T]
        could_be_false = (state == COUNTED) & ~exempt
        ordered = np.sort(score[could_be_false])
        false = (len(ordered) - np.searchsorted(ordered, thresholds, side="left")).astype(np.int64)
        unmatched_is_false = np.append(could_be_false[self.rows], False)
        true, similarity = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds))
        column = np.arange(len(thresholds))
        for step in self.steps:
            present = truth_state[step.truth] != ABSENT
            candidates, counted = step.candidates[present], truth_state[step.truth[present]] == COUNTED
            # counted candidates by overlap; ignored ones are all alike and below every counted one
            key = np.select(
                [states[candidates] == COUNTED, states[candidates] == IGNORED], [step.overlap[present], np.finfo(float).tiny], 0.0
            )
            key = key[:, :, None] * free[candidates]  # [n, K, T]
            best = key.argmax(1)  # [n, T], the first of equals
            takes = np.take_along_axis(key, best[:, None], 1)[:, 0] > 0
            choice = np.take_along_axis(candidates, best, 1)  # [n, T]
            free[choice[takes], np.broadcast_to(column, takes.shape)[takes]] = False
            false -= (takes & unmatched_is_false[choice]).sum(0)
            hit = takes & counted[:, None] & (states[choice] == COUNTED)
            true += hit.sum(0)
            similarity += (np.take_along_axis(step.similarity[present], best, 1) * hit).sum(0)
        return Counts(true, false, similarity)
