"""Average precision as the KITTI object benchmark defines it: precision at sampled recalls, made monotone, averaged."""

from __future__ import annotations

import numpy as np

RECALL_SAMPLES = 41  # recalls 0, 1/40, …, 1


def sample_thresholds(scores: np.ndarray, objects: int) -> np.ndarray:
    """Scores at which recall comes nearest to 0, 1/40, 2/40, …: at most 41, falling.

    ``scores`` [K]: scores of the true positives, in any order; ``objects``: number of objects that count. The k-th best score stands for
    recall k/objects and is passed over when the next one is nearer to the recall looked for. With fewer than 41 objects each
    found object gives at most one sample, so that even perfect detections stay below 100 %: the benchmark's own behaviour.
    """
    ordered = np.sort(scores)[::-1]
    wanted, thresholds = 0.0, []
    for rank, score in enumerate(ordered, 1):
        last = rank == len(ordered)
        here, following = rank / objects, (rank if last else rank + 1) / objects
        if following - wanted < wanted - here and not last:
            continue
        thresholds.append(score)
        wanted += 1 / (RECALL_SAMPLES - 1)
    return np.array(thresholds[:RECALL_SAMPLES])


def average(share: np.ndarray) -> tuple[float, float]:
    """Averages in percent over 40 recalls (1/40 … 1) and over 11 (0, 0.1 … 1) of ``share`` [T], sampled at ``sample_thresholds``.

    Each value is replaced with the largest at its own and all higher recalls; recalls that are not reached count 0.
    """
    samples = np.zeros(RECALL_SAMPLES)
    samples[: len(share)] = np.maximum.accumulate(share[::-1])[::-1]
    return float(samples[1:].mean() * 100), float(samples[::4].mean() * 100)
