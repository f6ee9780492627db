"""Table and curves of the digits, on made-up results; a training of two epochs, kept and not repeated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import digits
import digits_report

ORDER = list(digits.MODELS)


def ours(model: str, wrong: int, seed: int = 0) -> dict:
    accuracy = 100 * (1 - wrong / 899)
    curves = {"loss": [[1, 2.0], [2, 1.0]], "accuracy": [[2, accuracy]]}
    cost = {"cpu_seconds": 60.0, "wall_seconds": 61.0}
    return {"model": model, "seed": seed, "accuracy": accuracy, "images": 899, "parameters": 1234, "epochs": 2, "curves": curves, **cost}


def theirs(model: str, wrong: int) -> dict:
    return {"model": model, "accuracy": 100 * (1 - wrong / 899), "images": 899, "cpu_seconds": 3.0, "options": {"C": 3}}


def test_table_counts_and_compares(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "scikit-learn.json").write_text(json.dumps([theirs("SVM", 28), theirs("k-NN", 36)]))
    for name, wrong in (("vil2", 10), ("ttt", 27)):
        (tmp_path / f"{name}-seed0.json").write_text(json.dumps(ours(name, wrong)))
    text = digits_report.write_report(tmp_path, ORDER)
    assert "| vil2 | 0 | 1,234 | 60 | 98.89 | 10 |" in text and "| SVM |  |  | 3 | 96.89 | 28 |" in text and "SVM: C = 3." in text
    assert "Every model is better than SVM: the worst, ttt, has 27 wrong, not 28." in text and "seed 0: 2.0" in text
    assert (tmp_path / "digits.png").stat().st_size > 10_000 and (tmp_path / "digits.md").read_text() == text
    (tmp_path / "ttt-seed1.json").write_text(json.dumps(ours("ttt", 28, 1)))
    assert "Not every model is better than SVM" in digits_report.write_report(tmp_path, ORDER)


def test_empty_folder_is_told(tmp_path):
    assert digits_report.write_report(tmp_path, ORDER) == f"{tmp_path}: no results yet"


def test_training_and_its_curves(tmp_path, monkeypatch):
    """Two epochs of the Sequencer; the curves have both, the score is the last."""
    pytest.importorskip("mmengine")
    pytest.importorskip("sklearn")
    from visionrnn.integrations.mmengine import launch

    real = launch.train

    def short(config, work_dir, resume=None, seed=None):
        return real(config, work_dir, resume, ["train_cfg.max_epochs=2"], seed=seed)

    monkeypatch.setattr(launch, "train", short)
    result = digits.train("sequencer", 3, tmp_path)
    assert [epoch for epoch, _ in result["curves"]["loss"]] == [1, 2] and result["epochs"] == 2 and result["images"] == 899
    assert result["curves"]["accuracy"] == [(2, result["accuracy"])] and 5 < result["accuracy"] < 100
    assert result["cpu_seconds"] > 0 and result["curves"]["loss"][1][1] < result["curves"]["loss"][0][1]


@pytest.mark.slow
def test_baselines_are_tuned_on_the_training_half():
    pytest.importorskip("sklearn")
    svm, neighbours = digits.baselines()
    assert svm["options"] == {"C": 3, "gamma": 0.1} and svm["accuracy"] == pytest.approx(96.885, abs=0.3)
    assert neighbours["options"]["n_neighbors"] == 3 and neighbours["accuracy"] == pytest.approx(95.996, abs=0.3)
