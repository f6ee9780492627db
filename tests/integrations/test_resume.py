"""A training killed with SIGKILL and resumed repeats an unbroken one bit for bit; the one-cycle schedule reaches its targets."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine")
sys.path.insert(0, str(Path(__file__).parent))

import tiny

from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.integrations.mmengine import SafeRunner, seeding
from visionrnn.integrations.mmengine.files import write_last
from visionrnn.integrations.mmengine.optimizers import DecayGroups

ROOT = Path(__file__).resolve().parents[2]


def run(work_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(tiny.__file__)), str(work_dir), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_killed_training_resumes_bit_for_bit(tmp_path):
    """Two loader workers that persist, shuffling, augmentation, dropout, BatchNorm, EMA, AdamW, one cycle; killed in the third epoch."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    killed = run(broken, "--kill-at", "9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert (broken / "last_checkpoint").read_text().endswith("epoch_2.pth")
    (broken / ".epoch_3.pth.abc_123.part").write_bytes(b"half a checkpoint")
    resumed = run(broken, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    unbroken = run(whole)
    assert unbroken.returncode == 0, unbroken.stderr[-2000:]

    assert len(tiny.losses(whole)) == 16
    assert tiny.losses(broken) == tiny.losses(whole)  # loss, learning rate and momentum of every iteration, as hexadecimal text
    first, second = (torch.load(path / "epoch_4.pth", weights_only=True) for path in (broken, whole))
    for part in ("state_dict", "ema_state_dict"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), f"{part}.{key}"
    for index, state in first["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][index][key]), f"optimizer {index}.{key}"
    assert not list(broken.glob(".*.part"))


def test_seed_of_the_checkpoint_is_taken_over(tmp_path):
    """Without a seed in the config every start draws one; a resumed training shuffles by the first start's."""
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    options = {"epochs": 2, "workers": 0, "randomness": {"seed": None, "_delete_": True}}
    SafeRunner.from_cfg(tiny.config(first, **options)).train()
    write_last(again, first / "epoch_1.pth")
    SafeRunner.from_cfg(tiny.config(again, resume=True, **options)).train()
    assert tiny.losses(again) == {step: row for step, row in tiny.losses(first).items() if step >= 4}


def test_voxel_features_have_repeatable_gradients():
    """Two threads must add in a fixed order, or two equal runs drift apart. Indexing with [] does not, index_select does."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(30_000, 4, generator=generator) * torch.tensor([20.0, 20.0, 4.0, 1.0])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        encoder = DynamicVFE(4, [16, 16], [0, 0, 0, 20, 20, 4], [1.0, 1.0, 1.0])
        weights = torch.randn(16)
        gradients = []
        for _ in range(8):
            encoder.zero_grad()
            features, _, _ = encoder(points, torch.zeros(len(points), dtype=torch.long), 1)
            (features * weights).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    finally:
        torch.set_num_threads(threads)
    for repeated in gradients[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(repeated, gradients[0], strict=True))


def test_seeds_are_a_function_of_their_numbers():
    assert seeding.seed_of(0, 1) == seeding.seed_of(0, 1)
    assert len({seeding.seed_of(a, b) for a in range(20) for b in range(20)}) == 400
    seeding.seed_everything(3, 1)
    first = torch.rand(4)
    torch.rand(100)
    seeding.seed_everything(3, 1)
    assert torch.equal(first, torch.rand(4))


@pytest.mark.parametrize("epochs", [1, 4, 10])
def test_one_cycle_follows_the_length(tmp_path, epochs):
    """lr: 3e-4 → 3e-3 at 40 % → 3e-8; first beta: 0.95 → 0.85 → 0.95, whatever the number of epochs; auto_scale_lr scales all of it."""
    cfg = tiny.config(tmp_path, epochs=epochs, workers=0)
    cfg.auto_scale_lr = {"enable": True, "base_batch_size": 6}  # the batch size is 3: half the rate
    cfg.train_cfg.val_interval = 100
    cfg.default_hooks.checkpoint.interval = 100
    SafeRunner.from_cfg(cfg).train()
    rows = list(tiny.losses(tmp_path).values())
    rates, betas = ([float.fromhex(row[column]) for row in rows] for column in (1, 2))
    peak = round(0.4 * len(rates)) - 1
    assert rates[0] == pytest.approx(1.5e-4) and betas[0] == pytest.approx(0.95)
    assert rates[peak] == pytest.approx(1.5e-3) and betas[peak] == pytest.approx(0.85)
    assert rates[-1] == pytest.approx(1.5e-8) and betas[-1] == pytest.approx(0.95)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)


def test_state_parameters_are_not_decayed():
    model = torch.nn.ModuleDict({"mixer": torch.nn.Linear(2, 2)})
    model["mixer"].A_log = torch.nn.Parameter(torch.zeros(2))
    model["mixer"].D = torch.nn.Parameter(torch.zeros(2))
    model["mixer"].Downscale = torch.nn.Parameter(torch.zeros(2))
    model["mixer"].marked = torch.nn.Parameter(torch.zeros(2))
    model["mixer"].marked._no_weight_decay = True
    wrapper = DecayGroups({"optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}})(model)
    names = {id(parameter): name.rpartition(".")[2] for name, parameter in model.named_parameters()}
    groups = [({names[id(parameter)] for parameter in group["params"]}, group["weight_decay"]) for group in wrapper.optimizer.param_groups]
    assert groups == [({"weight", "bias", "Downscale"}, 0.05), ({"A_log", "D", "marked"}, 0.0)]
    with pytest.raises(TypeError, match="unknown paramwise_cfg options"):
        DecayGroups({"optimizer": {"type": "AdamW", "lr": 1e-3}}, {"norm_decay_mult": 0.0})
