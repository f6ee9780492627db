"""Randomness as a function of (seed, epoch, iteration, rank), so that a resumed run continues as an unbroken one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


def seed_of(*numbers: int) -> int:
    """A 63-bit seed mixed from non-negative integers, e.g. (seed, epoch, iteration, rank)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*numbers: int) -> None:
    """Seeds Python's, NumPy's and torch's generators (every device's) from ``seed_of(*numbers)``."""
    seed = seed_of(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's CPU generators start from a seed mixed from ``numbers`` (≥ 0); afterwards they go on
    from where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)  # the CPU's alone: workers must not touch a GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def set_epoch(dataset: Any, epoch: int, seed: int | None = None) -> None:
    """Calls ``set_epoch(epoch)`` and ``set_seed(seed)`` of a dataset and of the datasets it wraps or joins, where they have them."""
    if callable(getattr(dataset, "set_epoch", None)):
        dataset.set_epoch(epoch)
    if seed is not None and callable(getattr(dataset, "set_seed", None)):
        dataset.set_seed(seed)
    inner = vars(dataset).get("dataset")
    for wrapped in [inner] if inner is not None else vars(dataset).get("datasets", ()):
        set_epoch(wrapped, epoch, seed)


@HOOKS.register_module()
class SeedingHook(Hook):
    """Reseeds at the start of every epoch (which seeds the loader's workers) and of every iteration (drop-path, dropout).

    The generators are the same on all ranks at an epoch's start, as a sampler needs, and differ between ranks inside an iteration.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Any) -> None:
        seed_everything(runner.seed, runner.epoch)
        set_epoch(runner.train_dataloader.dataset, runner.epoch, runner.seed)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, runner.epoch, runner.iter, runner.rank)
