"""From the command line to a run: options, data root, clear errors, training and scoring of a tiny config."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine")
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from mmengine.config import Config

from visionrnn.cli import main
from visionrnn.errors import DataError
from visionrnn.integrations.mmengine.launch import check_data, load_config
from visionrnn.integrations.mmengine.log import headline
from visionrnn.integrations.mmengine.options import apply_options, parse_options


@pytest.fixture
def config_file(tmp_path) -> Path:
    """A config file with the tiny model and data, as a user would have it."""
    path = tmp_path / "tiny_config.py"
    cfg = tiny.config(tmp_path / "run", epochs=1, workers=0)
    (tmp_path / "run").mkdir()
    cfg.dump(path)
    return path


def test_parse_options():
    texts = ["a.b=1", "c=[0.1, 2]", "d=true", "e=x,2", "f=(0, 0.3)", "g=none", "h=data/kitti", "i=a=b", "j=1e-3"]
    assert parse_options(texts) == {
        "a.b": 1, "c": [0.1, 2], "d": True, "e": ["x", 2], "f": (0, 0.3), "g": None, "h": "data/kitti", "i": "a=b", "j": 1e-3
    }  # fmt: skip
    with pytest.raises(DataError, match=r"'epochs': expected key=value"):
        parse_options(["epochs"])


def test_apply_options():
    cfg = Config({"optim_wrapper": {"optimizer": {"lr": 1}}, "param_scheduler": [{"phase": (0, 1)}], "batch_size": 2, "train_cfg": {}})
    apply_options(cfg, {"optim_wrapper.optimizer.lr": 2, "param_scheduler.0.phase": (0, 0.5), "+train_cfg.max_epochs": 3, "load_from": "f"})
    assert cfg.optim_wrapper.optimizer.lr == 2 and cfg.param_scheduler[0].phase == (0, 0.5)
    assert cfg.train_cfg.max_epochs == 3 and cfg.load_from == "f"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optim_wrapper.optimizer.learning_rate", r"unknown key 'learning_rate' in optim_wrapper\.optimizer; known keys: lr"),
        ("optim_wraper.optimizer.lr", r"unknown key 'optim_wraper'; did you mean optim_wrapper"),
        ("param_scheduler.4.phase", r"unknown key '4' in param_scheduler"),
        ("optim_wrapper.optimizer.lr.x", r"optim_wrapper\.optimizer\.lr is 1, it has no keys"),
        ("batch_size", r"'batch_size' is a helper variable"),
        ("data_root", "no data loader has a data set with data_root"),
    ],
)
def test_wrong_options_are_told(key, message):
    cfg = Config({"optim_wrapper": {"optimizer": {"lr": 1}}, "param_scheduler": [{"phase": (0, 1)}], "batch_size": 2})
    with pytest.raises(DataError, match=message):
        apply_options(cfg, {key: 5})


def test_missing_data_names_file_and_command(tmp_path):
    dataset = {"type": "RepeatDataset", "dataset": {"type": "X", "data_root": str(tmp_path / "kitti"), "ann_file": "kitti_infos_train.pkl"}}
    with pytest.raises(DataError, match=r"kitti_infos_train\.pkl: the train set's .* visionrnn create-data kitti --root .*kitti"):
        check_data(Config({"train_dataloader": {"dataset": dataset}}), ["train"])


def test_train_resume_and_test_from_the_command_line(config_file, tmp_path, capsys):
    work_dir = tmp_path / "run"
    assert main(["train", str(config_file), "--work-dir", str(work_dir), "--seed", "5"]) == 0
    assert torch.load(work_dir / "epoch_1.pth", weights_only=True)["meta"]["seed"] == 5
    longer = ["--cfg-options", "train_cfg.max_epochs=2", "+train_cfg.val_begin=1"]
    assert main(["train", str(config_file), "--work-dir", str(work_dir), "--resume", *longer]) == 0
    assert set(tiny.losses(work_dir)) == set(range(8))
    assert main(["test", str(config_file), str(work_dir / "epoch_2.pth"), "--work-dir", str(tmp_path / "scored")]) == 0
    (scores,) = (tmp_path / "scored").glob("*/*.json")
    assert "score" in json.loads(scores.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "CONFIG", "--cfg-options", "train_cfg.max_epoch=3"], "unknown key 'max_epoch' in train_cfg; did you mean max_epochs"),
        (["train", "CONFIG", "--resume", "nowhere.pth"], "nowhere.pth: there is no such checkpoint file"),
        (["test", "CONFIG", "nowhere.pth"], "nowhere.pth: there is no such checkpoint file"),
        (["train", "no-such-config"], "there is no such file"),
        (["train", "CONFIG", "--launcher", "pytorch"], "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not in the environment"),
    ],
)
def test_errors_are_one_line(config_file, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main([str(config_file) if argument == "CONFIG" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so --amp is accepted")
def test_amp_needs_a_gpu(config_file, tmp_path, capsys):
    assert main(["train", str(config_file), "--work-dir", str(tmp_path / "run"), "--amp"]) == 2
    assert "--amp: mixed precision needs a GPU" in capsys.readouterr().err


def test_broken_config_is_told(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("model = dict(\n")
    with pytest.raises(DataError, match=r"broken\.py: not a config that can be read"):
        load_config(path)


def test_console_shows_the_headline_metrics():
    many = {f"kitti/Car_{kind}_{level}_R40": 1.0 for kind in ("3D", "BEV", "image", "AOS") for level in ("easy", "moderate", "hard")}
    assert list(headline({**many, "x": 0.0})) == ["kitti/Car_3D_moderate_R40"]
    assert headline({"score": 1.0}) == {"score": 1.0}
    assert len(headline({f"m{index}": index for index in range(40)})) == 12
