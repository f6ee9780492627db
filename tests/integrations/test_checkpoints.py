"""Checkpoints: plain contents, whole files, safe loading, and nothing stored in them is executed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner

from visionrnn import checkpoints
from visionrnn.errors import CheckpointError
from visionrnn.integrations.mmengine import SafeRunner, files
from visionrnn.integrations.mmengine.plain import hub_from_plain, hub_to_plain, to_plain

PLAIN = (type(None), bool, int, float, complex, str, bytes)


def assert_plain(value, where="checkpoint"):
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in PLAIN, where
            assert_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            assert_plain(item, where)
    else:
        assert type(value) in PLAIN or type(value) is torch.Tensor, f"{where}: {type(value)}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Work dir of a training of two epochs."""
    work_dir = tmp_path_factory.mktemp("trained")
    SafeRunner.from_cfg(tiny.config(work_dir, epochs=2, workers=0)).train()
    return work_dir


def test_checkpoint_is_plain_and_complete(trained):
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=True)
    assert_plain(checkpoint)
    meta = checkpoint["meta"]
    assert meta["classes"] == ["Car", "Pedestrian"] and meta["seed"] == 0 and meta["epoch"] == 2 and meta["iter"] == 8
    assert "TinyModel" in meta["config"] and meta["visionrnn_version"] and meta["dataset_meta"]["scale"] == 2.0
    assert (trained / "last_checkpoint").read_text() == str(trained / "epoch_2.pth")
    history = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert history["values"].dtype == torch.float64 and len(history["values"]) == 8
    assert len(list(trained.glob("best_score_epoch_*.pth"))) == 1
    assert not list(trained.glob(".*.part"))


def test_to_plain_converts_and_refuses():
    plain = to_plain({"a": np.float32(1.5), "b": np.arange(3), "c": {2, 1}, "d": np.array(["x"]), "e": torch.Size([2]), "f": Path("p")})
    assert_plain(plain)
    assert plain["a"] == 1.5 and plain["b"].tolist() == [0, 1, 2] and plain["c"] == [1, 2] and plain["f"] == "p"
    with pytest.raises(TypeError, match=r"hooks\[1\]\.call: builtins\.object"):
        to_plain({"hooks": [1, {"call": object()}]})
    view = torch.zeros(1000)[:2]
    assert to_plain(view).untyped_storage().nbytes() == 8


def test_message_hub_survives():
    hub = MessageHub.get_instance("survives")
    for value in (0.1, 0.2, 1e-30):
        hub.update_scalar("train/loss", value, 3)
    hub.update_info("best_score", np.float64(0.25))
    hub.update_info("odd", object())
    left_out = []
    state = hub_to_plain(hub.state_dict(), lambda place, value: left_out.append(place))
    assert left_out == ["message_hub.odd"]
    again = MessageHub.get_instance("survives again")
    again.load_state_dict(hub_from_plain(state))
    buffer = again.get_scalar("train/loss")
    assert isinstance(buffer, HistoryBuffer)
    for ours, theirs in zip(buffer.data, hub.get_scalar("train/loss").data, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.get_info("best_score") == 0.25


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    files.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, path)

    def broken(content, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        files.save_checkpoint({"state_dict": {}}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True)["state_dict"]["w"].tolist() == [1, 1]
    assert [other.name for other in tmp_path.iterdir()] == ["epoch_1.pth"]


def test_resume_never_runs_the_stored_config(trained, tmp_path):
    witness = tmp_path / "executed"
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=True)
    for key in ("config", "cfg"):
        checkpoint["meta"][key] = f"open({str(witness)!r}, 'w').close()\n"
    checkpoint["message_hub"]["runtime_info"]["cfg"] = checkpoint["meta"]["cfg"]
    torch.save(checkpoint, tmp_path / "evil.pth")
    (tmp_path / "run").mkdir()
    cfg = tiny.config(tmp_path / "run", epochs=2, workers=0, resume=True, load_from=str(tmp_path / "evil.pth"))
    runner = SafeRunner.from_cfg(cfg)
    runner.train()
    assert runner.epoch == 2 and not witness.exists()


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_code_is_not_run_and_weights_are_taken(tmp_path):
    witness = tmp_path / "executed"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": Payload(witness), "log": HistoryBuffer([1.0], [1])}, tmp_path / "foreign.pth")
    checkpoint = checkpoints.read_checkpoint(tmp_path / "foreign.pth")
    assert not witness.exists()
    assert set(checkpoint) == {"state_dict", checkpoints.FOREIGN} and checkpoint["state_dict"]["w"].tolist() == [1, 1]


def test_checkpoint_of_mmengine_itself_gives_weights_but_does_not_resume(tmp_path):
    cfg = tiny.config(tmp_path, epochs=1, workers=0, experiment_name="stock")
    cfg.default_hooks.checkpoint.type = "CheckpointHook"
    Runner.from_cfg(cfg).train()
    checkpoint = checkpoints.read_checkpoint(tmp_path / "epoch_1.pth")
    assert "mmengine.logging.history_buffer.HistoryBuffer" in checkpoint[checkpoints.FOREIGN] and "first.weight" in checkpoint["state_dict"]
    (tmp_path / "run").mkdir()
    cfg = tiny.config(tmp_path / "run", workers=0, resume=True, load_from=str(tmp_path / "epoch_1.pth"))
    with pytest.raises(CheckpointError, match=r"holds weights but no training state .* load_from=FILE"):
        SafeRunner.from_cfg(cfg).train()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file(trained, tmp_path, share):
    data = (trained / "epoch_2.pth").read_bytes()
    path = tmp_path / "epoch_9.pth"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"epoch_9\.pth: "):
        checkpoints.read_checkpoint(path)


def test_wrong_path_lists_what_is_there(trained):
    with pytest.raises(CheckpointError, match=r"epoch_7\.pth: there is no such checkpoint file; in .* there are: .*epoch_1\.pth"):
        checkpoints.read_checkpoint(trained / "epoch_7.pth")


def test_checkpoint_of_another_model(trained, tmp_path):
    cfg = tiny.config(tmp_path, workers=0, load_from=str(trained / "epoch_2.pth"), **{"model.width": 24})
    with pytest.raises(
        CheckpointError, match=r"another model: .* keys fit; \d+ of another shape: A_log \(16,\) in the file, \(24,\) in the model"
    ):
        SafeRunner.from_cfg(cfg).test()


def test_resume_passes_over_an_unreadable_checkpoint(trained, tmp_path):
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "epoch_2.pth").write_bytes(b"PK\x03\x04 half")
    (tmp_path / "last_checkpoint").write_text("/moved/away/epoch_2.pth")
    assert [path.name for path in files.resume_candidates(tmp_path)] == ["epoch_2.pth", "epoch_1.pth"]
    runner = SafeRunner.from_cfg(tiny.config(tmp_path, epochs=2, workers=0, resume=True))
    runner.train()
    assert set(tiny.losses(tmp_path)) == {4, 5, 6, 7}


def test_loss_that_is_not_finite_stops_with_a_report(tmp_path):
    cfg = tiny.config(tmp_path, epochs=1, workers=0, **{"train_dataloader.dataset": {"type": "TinyDataset", "poison": 5}})
    with pytest.raises(ValueError, match=r"epoch 1, iteration \d+: loss = nan; samples of the batch: .*5.*Training stopped"):
        SafeRunner.from_cfg(cfg).train()


def test_pretrained_weights_are_read_safely(trained, tmp_path, monkeypatch):
    """``init_cfg`` of a module: mmengine's own reader unpickles downloads without restriction."""
    witness = tmp_path / "executed"
    torch.save({"state_dict": {"w": torch.ones(1)}, "log": Payload(witness)}, tmp_path / "evil.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert CheckpointLoader.load_checkpoint(str(tmp_path / "evil.pth"))["state_dict"]["w"].item() == 1
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    address = f"http://127.0.0.1:9/{trained.name}.pth"
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        CheckpointLoader.load_checkpoint(address)
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, path, progress: Path(path).write_bytes((tmp_path / "evil.pth").read_bytes())
    )
    assert CheckpointLoader.load_checkpoint(address)["state_dict"]["w"].item() == 1
    assert not witness.exists()
    for scheme in ("openmmlab://x", "s3://bucket/x.pth"):
        with pytest.raises(CheckpointError, match="not supported"):
            CheckpointLoader.load_checkpoint(scheme)
