"""visionrnn analyze-model on image classifiers."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("timm")
import timm

from visionrnn.cli import main

VIL = "vil2_tiny_patch16_224"


def test_image_classifier_of_ours(tmp_path, capsys):
    assert main(["analyze-model", VIL, "--size", "64", "--batch", "2", "--repeats", "1", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "2 random images of 64 × 64 pixels" in text and "blocks" in text and "voxels" not in text
    found = json.loads((tmp_path / f"{VIL}.json").read_text())
    positions = (14 * 14 - 4 * 4) * 192  # fewer than at 224
    assert found["parameters"] == 6_391_528 - positions
    assert sum(part["parameters"] for part in found["parts"]) == found["parameters"]
    tokens, dim = 2 * 4 * 4, 192
    projections = 24 * 2 * tokens * 6 * dim * dim
    assert 1.3 * projections < found["operations"] < 1.7 * projections  # the memory takes 0.4, all else 0.1
    assert (tmp_path / f"{VIL}.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "test_convnext"])  # the second takes every size, and no option for it
def test_image_classifier_of_timm(name, capsys):
    assert main(["analyze-model", name, "--size", "32", "--repeats", "1"]) == 0
    assert "1 random image of 32 × 32 pixels" in capsys.readouterr().out


def test_weights_of_another_model(tmp_path, capsys):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    assert main(["analyze-model", VIL, "--checkpoint", str(tmp_path / "other.pth")]) == 2
    assert "other.pth: not the weights of vil2_tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((VIL, "--size", "8"), "smaller than a patch"),
        ((VIL, "--frame", "cloud.bin"), "takes images"),
        ((VIL, "--device", "abacus"), "device 'abacus'"),
        ((VIL, "--checkpoint", "nothing.pth"), "nothing.pth: there is no such file"),
        (("lion-nothing", "--size", "64"), "'lion-nothing' is none of timm's"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["analyze-model", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
