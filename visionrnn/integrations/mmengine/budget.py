"""Trainings of equal cost: what a step costs, epochs of any length, and a clock that survives resuming."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from torch.utils.data import Sampler

from visionrnn.integrations.mmengine.seeding import seed_of

CPU_SECONDS, WALL_SECONDS = "cpu_seconds", "wall_seconds"


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Epochs of ``length`` samples, cut from one endless stream of shuffled passes over the data set.

    An epoch need not end where a pass does: the number of iterations can be chosen freely, and every frame still comes equally
    often. The order is a function of (seed, pass). ``length`` counts the samples of all processes, rounded up to equal numbers for each.
    """

    def __init__(self, dataset: Sized, length: int, seed: int | None = None):
        if length < 1 or not len(dataset):
            raise ValueError(f"length={length}, {len(dataset)} samples in the data set; expected at least 1 of both")
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()
        self.size, self.share = len(dataset), -(-length // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the piece of the stream."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.share

    def __iter__(self) -> Iterator[int]:
        start, stop = (epoch * self.share * self.world_size for epoch in (self.epoch, self.epoch + 1))
        first = start // self.size
        passes = range(first, -(-stop // self.size))
        orders = [torch.randperm(self.size, generator=torch.Generator().manual_seed(seed_of(self.seed, number))) for number in passes]
        piece = torch.cat(orders)[start - first * self.size : stop - first * self.size]
        return iter(piece[self.rank :: self.world_size].tolist())


@HOOKS.register_module()
class ClockHook(Hook):
    """Sums up the training's processor and wall-clock seconds; kept in checkpoints, so that a resumed run goes on counting.

    The sums, of whole epochs without validation, are ``cpu_seconds`` (of this process and its threads; data loading counts only with
    ``num_workers=0``) and ``wall_seconds`` in the message hub's runtime information.
    """

    priority = "NORMAL"  # before the checkpoint is written

    def before_train_epoch(self, runner: Any) -> None:
        self._start = time.process_time(), time.perf_counter()

    def after_train_epoch(self, runner: Any) -> None:
        info = runner.message_hub.runtime_info
        for key, now, start in zip((CPU_SECONDS, WALL_SECONDS), (time.process_time(), time.perf_counter()), self._start, strict=True):
            runner.message_hub.update_info(key, float(info.get(key, 0.0)) + now - start)


def step_seconds(configs: Mapping[str, Config], steps: int = 24, warm_up: int = 4) -> dict[str, float]:
    """Mean processor seconds of one training step, loading of its data included, of each config's model.

    The models take turns, step by step, so that a slow moment of the machine hits all alike. Loading must happen in this process: the
    configs' ``train_dataloader.num_workers`` is set to 0.
    """
    from visionrnn.integrations.mmengine.runner import SafeRunner

    trainings = {}
    for name, config in configs.items():
        config.train_dataloader.update(num_workers=0, persistent_workers=False)
        runner = SafeRunner.from_cfg(config)
        loader = runner.build_dataloader(config.train_dataloader, seed=runner.seed)
        runner.model.train()
        trainings[name] = runner.model, _endless(loader), runner.build_optim_wrapper(config.optim_wrapper)
    seconds = dict.fromkeys(configs, 0.0)
    for step in range(warm_up + steps):
        for name, (model, batches, optimizer) in trainings.items():
            start = time.process_time()
            model.train_step(next(batches), optim_wrapper=optimizer)
            if step >= warm_up:
                seconds[name] += (time.process_time() - start) / steps
    return seconds


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
