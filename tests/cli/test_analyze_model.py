"""visionrnn analyze-model: tables, files, and what it says when something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mmdet3d")

from detector_config import cloud, write_detector

from visionrnn.cli import main
from visionrnn.cli.configs import find_config

LION = "lion-mamba_1xb2_synthetic-near-3d-3class"


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    path = tmp_path_factory.mktemp("frame") / "cloud.npy"
    np.save(path, cloud(400))
    return path


def analyze(config, frame, out, *options: str) -> dict:
    assert main(["analyze-model", str(config), "--frame", str(frame), "--out", str(out), "--repeats", "1", *options]) == 0
    (path,) = out.glob("*.json")
    return json.loads(path.read_text())


def test_lion_with_another_operator(frame, tmp_path, capsys):
    config = tmp_path / "lion-retnet.py"
    config.write_text(
        f"_base_ = {str(find_config(LION))!r}\nmodel = dict(middle_encoder=dict(operator=dict(type='retnet'), generate_ratio=0.0))\n"
    )
    found = analyze(config, frame, tmp_path / "out")
    text = capsys.readouterr().out
    assert "middle_encoder" in text and "closing layer" in text and "random weights" in text and "FLOPs" in text
    assert [cost["scan"]["name"] for cost in found["stages"]] == ["stage 1", "stage 2", "closing layer"]
    assert all(cost["scan"]["scanned_tokens"] == cost["scan"]["scanned_voxels"] for cost in found["stages"])
    first = found["stages"][0]["scan"]
    assert 0 < first["levels"][2] < first["levels"][1] < first["levels"][0] <= 400
    assert found["about"]["points"] == 400 and found["operations"] > 1e6 and not found["not_counted"]
    picture = pytest.importorskip("matplotlib.image").imread(tmp_path / "out" / "lion-retnet.png")
    assert picture.shape[1] > 1.5 * picture.shape[0] and picture[..., :3].std() > 0.05


def test_baseline_with_its_checkpoint_has_parts_only(frame, tmp_path, capsys):
    config, checkpoint = write_detector(tmp_path)
    found = analyze(config, frame, tmp_path / "out", "--checkpoint", str(checkpoint))
    names = [part["name"] for part in found["parts"]]
    assert names[:2] == ["data_preprocessor", "voxel_encoder"] and "bbox_head" in names and not found["stages"]
    assert found["about"]["checkpoint"] == str(checkpoint)
    assert "Stages" not in capsys.readouterr().out
    assert found["process_peak"] is None or found["process_peak"] >= 0


def test_synthetic_frame_when_none_is_given(tmp_path, capsys):
    config, _ = write_detector(tmp_path)
    assert main(["analyze-model", str(config), "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "SYNTHETIC frame" in text and "whole model" in text
    assert not list(tmp_path.glob("*.png"))


def test_errors_are_one_line(frame, tmp_path, capsys):
    config, _ = write_detector(tmp_path)
    far = tmp_path / "far.npy"
    np.save(far, cloud(50) + np.float32([1000, 0, 0, 0]))
    wrong = {
        ("second",): "no config of this name",
        (str(config), "--frame", "missing.bin"): "missing.bin: point cloud file not found",
        (str(config), "--frame", str(far)): "none of its 50 points is in the model's range",
        (str(config), "--checkpoint", "missing.pth"): "missing.pth",
        (str(config), "--device", "abacus"): "device 'abacus' is unknown",
        (str(config), "--frame", str(frame), "--out", str(far)): "is a file; expected a folder",
    }
    for arguments, message in wrong.items():
        assert main(["analyze-model", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
    with pytest.raises(SystemExit):
        main(["analyze-model", str(config), "--repeats", "0"])
    assert "0 is not positive" in capsys.readouterr().err
