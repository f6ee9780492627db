"""Epochs of any length, the clock that survives a resumption, the measured cost of a step."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine")

import tiny
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionrnn.integrations.mmengine import budget


@HOOKS.register_module()
class BusyHook(Hook):
    """Uses up processor time in every iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass


def test_stream_gives_every_frame_equally_often():
    sampler = budget.StreamSampler(range(10), 7, seed=3)
    drawn = []
    for epoch in range(10):
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler)) == 7
        drawn += list(sampler)
    passes = [drawn[start : start + 10] for start in range(0, 70, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]
    sampler.set_epoch(4)
    assert list(sampler) == drawn[28:35]  # whatever was drawn before
    assert list(budget.StreamSampler(range(10), 7, seed=4)) != drawn[:7]


@pytest.mark.parametrize("length", [10, 5])  # 5: three samples for each process
def test_stream_longer_than_a_pass_and_split_over_processes(monkeypatch, length):
    stream = []
    for epoch in range(4):
        shares = []
        for rank in range(2):
            monkeypatch.setattr(budget, "get_dist_info", lambda rank=rank: (rank, 2))
            sampler = budget.StreamSampler(range(4), length, seed=0)
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
        stream += [index for pair in zip(*shares, strict=True) for index in pair]
    assert len(stream) == 4 * 2 * -(-length // 2)
    assert all(sorted(stream[start : start + 4]) == list(range(4)) for start in range(0, len(stream), 4))
    monkeypatch.setattr(budget, "get_dist_info", lambda: (0, 1))
    assert stream[:5] == list(budget.StreamSampler(range(4), 5, seed=0))


@pytest.mark.parametrize(("size", "length"), [(0, 3), (3, 0)])
def test_stream_of_nothing_is_refused(size, length):
    with pytest.raises(ValueError, match=f"length={length}, {size} samples"):
        budget.StreamSampler(range(size), length, seed=0)


def test_clock_goes_on_after_a_resumption(tmp_path):
    def run(epochs: int, resume: bool) -> dict:
        config = tiny.config(tmp_path, epochs=epochs, workers=0)
        config.custom_hooks = [dict(type="ClockHook"), dict(type="BusyHook")]
        config.resume = resume
        config.train_dataloader.sampler = dict(type="StreamSampler", length=6)
        runner = tiny.SafeRunner.from_cfg(config)
        runner.train()
        return dict(runner.message_hub.runtime_info, iterations=runner.iter)

    first = run(1, False)
    second = run(2, True)
    share = 0.02 * first["iterations"]
    assert share <= first["cpu_seconds"] <= first["wall_seconds"] + 0.1
    assert second["iterations"] == 2 * first["iterations"]
    assert second["cpu_seconds"] >= first["cpu_seconds"] + share


def test_step_seconds_ranks_models_by_cost(tmp_path, monkeypatch):
    class Model:
        def __init__(self, seconds: float):
            self.seconds, self.steps = seconds, 0

        def train(self):
            return self

        def train_step(self, batch, optim_wrapper):
            self.steps += 1
            end = time.process_time() + self.seconds
            while time.process_time() < end:
                pass

    models = {"fast": Model(0.002), "slow": Model(0.008)}

    def build(config):
        return SimpleNamespace(
            model=models[config.name], seed=0, build_dataloader=lambda *_, **__: [1, 2], build_optim_wrapper=lambda wrapper: None
        )

    monkeypatch.setattr("visionrnn.integrations.mmengine.runner.SafeRunner.from_cfg", build)
    configs = {name: SimpleNamespace(name=name, train_dataloader={}, optim_wrapper=None) for name in models}
    seconds = budget.step_seconds(configs, steps=3, warm_up=1)
    assert models["fast"].steps == models["slow"].steps == 4
    assert 0.002 <= seconds["fast"] < 0.008 <= seconds["slow"]
    assert configs["fast"].train_dataloader["num_workers"] == 0
