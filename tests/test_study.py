"""tools/study.py: which runs there are, that finished ones are kept, what the report says; slow: a real run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
COST = {"mamba": 0.4, "second": 0.2}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import study

    monkeypatch.setattr(study, "POLL", 0.0)
    return study


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "kitti_infos_val.pkl").touch()
    return folder


def result(model: str, seed: int, score: float) -> dict:
    scores = {f"kitti/{name}_3D_moderate_R40": score + shift for name, shift in (("Car", -10.0), ("Pedestrian", 0.0), ("Cyclist", 10.0))}
    cost = {"parameters": 1234567, "steps": 100, "passes": 0.5, "cpu_seconds": 61.2, "wall_seconds": 70.0}
    return {"data": "SYNTHETIC", "model": model, "seed": seed, **cost, "scores": scores}


class Processes:
    """Stands in for ``study.start``: a job ends at the second look, having written what the real one would."""

    def __init__(self, study, fail: str = ""):
        self.study, self.fail = study, fail
        self.jobs: list[str] = []
        self.running = self.most = 0

    def __call__(self, arguments: list[str], log: Path) -> SimpleNamespace:
        args = self.study.parse(arguments)
        self.jobs.append(args.job)
        self.running += 1
        self.most = max(self.most, self.running)
        looks = iter([None])

        def poll():
            if next(looks, 0) is None:
                return None
            self.running -= 1
            if args.job.startswith("calibration"):
                shift = 0.1 * (int(args.job[-1]) - 1)  # the mean of all measurements counts
                self.study.write_json(args.out / "steps" / f"{args.job}.json", {model: COST.get(model, 0.5) + shift for model in args.runs})
            elif args.job != self.fail:
                (run,) = self.study.plan(args.seeds, args.runs)
                assert run.name == args.job and args.steps == round(args.budget / COST.get(run.model, 0.5))
                self.study.write_json(args.out / f"{run.name}.json", result(run.model, run.seed, 50 + run.seed))
            process.returncode = int(args.job == self.fail)
            return process.returncode

        process = SimpleNamespace(poll=poll, terminate=lambda: None, returncode=None)
        return process


def test_twelve_runs_of_one_changed_word(study):
    runs = study.plan([0, 1, 2], list(study.MODELS))
    assert len(runs) == 12
    assert [run.seed for run in runs if run.model == "mamba"] == [0, 1, 2]
    words = {model: study.MODELS[model] for model in study.OPERATORS}
    assert {config for config, _ in words.values()} == {study.LION}
    assert all(changes == (f"model.middle_encoder.operator.type={model}",) for model, (_, changes) in words.items())


def test_options_give_the_wanted_steps_and_fit_the_configs(study, tmp_path):
    pytest.importorskip("mmdet3d")
    from visionrnn.integrations.mmengine.launch import load_config

    for model in study.MODELS:
        config = load_config(study.MODELS[model][0], study.options(model, tmp_path, 996), tmp_path)
        sampler = config.train_dataloader.sampler
        assert sampler.length * config.train_cfg.max_epochs == 2000  # frames of 1000 steps, the nearest multiple of ten
        assert config.train_dataloader.num_workers == 0 and config.train_cfg.val_interval > config.train_cfg.max_epochs
        assert config.train_dataloader.dataset.data_root == str(tmp_path)
        assert config.train_dataloader.batch_size == study.BATCH
        if model in study.OPERATORS:
            assert config.model.middle_encoder.operator == {"type": model}
    assert config.model.middle_encoder.generate_ratio == 0


def test_study_runs_all_then_only_what_is_missing(study, data, tmp_path, monkeypatch, capsys):
    processes = Processes(study)
    monkeypatch.setattr(study, "start", processes)
    arguments = ["--out", str(tmp_path / "out"), "--data", str(data), "--budget", "100", "--jobs", "3"]
    assert study.main(arguments) == 0
    assert processes.jobs[:3] == ["calibration-0", "calibration-1", "calibration-2"]
    assert len(processes.jobs) == 15 and processes.most == 3
    table = capsys.readouterr().out
    assert "SYNTHETIC" in table and "Mamba, 3 seeds: mAP 51.0 on average, 50.0 to 52.0." in table

    (tmp_path / "out" / "ttt-seed0.json").unlink()
    processes.jobs.clear()
    assert study.main(arguments) == 0
    assert processes.jobs == ["ttt-seed0"]
    with pytest.raises(SystemExit, match="another budget"):
        study.main([*arguments, "--budget", "50"])


def test_a_failed_run_does_not_stop_the_others(study, data, tmp_path, monkeypatch, capsys):
    processes = Processes(study, fail="second-seed0")
    monkeypatch.setattr(study, "start", processes)
    assert study.main(["--out", str(tmp_path), "--data", str(data), "--runs", "second", "pointpillars", "--jobs", "3"]) == 1
    assert "second-seed0: FAILED" in capsys.readouterr().out
    assert (tmp_path / "pointpillars-seed0.json").is_file() and not (tmp_path / "second-seed0.json").exists()


def test_report(study, tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    values = {("mamba", 0): 50.0, ("mamba", 1): 54.0, ("second", 0): 53.0, ("ttt", 0): 49.0, ("no-descriptor", 0): 60.0}
    for (model, seed), value in values.items():
        study.write_json(tmp_path / f"{model}-seed{seed}.json", result(model, seed, value))
    assert study.main(["--out", str(tmp_path), "--report"]) == 0
    with (tmp_path / "study.csv").open() as file:
        table = {(row["model"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert list(table) == [("mamba", 0), ("mamba", 1), ("ttt", 0), ("second", 0), ("no-descriptor", 0)]
    assert table["second", 0]["against Mamba's spread"] == "+1.0, inside"
    assert table["ttt", 0]["against Mamba's spread"] == "-3.0, below"
    assert table["no-descriptor", 0]["against Mamba's spread"] == "+8.0, above"
    assert (table["ttt", 0]["Car"], table["ttt", 0]["mAP"], table["ttt", 0]["CPU s"]) == ("39.0", "49.0", "61")
    picture = matplotlib.imread(tmp_path / "study.png")
    assert picture[..., :3].std() > 0.05
    assert "| second | 0 | 1,234,567 |" in (tmp_path / "study.md").read_text()


def test_report_of_nothing(study, tmp_path, capsys):
    assert study.main(["--out", str(tmp_path), "--report"]) == 0
    assert "no results yet" in capsys.readouterr().out


def test_a_run_trains_scores_and_writes_its_result(study, tmp_path, monkeypatch):
    pytest.importorskip("mmdet3d")
    import torch

    from visionrnn.integrations.mmengine import launch

    hub = SimpleNamespace(runtime_info={"cpu_seconds": 12.5, "wall_seconds": 13.5})
    loader = SimpleNamespace(dataset=range(400))
    runner = SimpleNamespace(message_hub=hub, bare_model=torch.nn.Linear(3, 2), iter=100, train_dataloader=loader)
    calls = {}
    monkeypatch.setattr(launch, "train", lambda *given, **named: calls.update(train=(given, named)) or runner)
    monkeypatch.setattr(launch, "test", lambda *given, **named: calls.update(test=given) or {"kitti/Car_3D_moderate_R40": 5.0})
    arguments = ["--out", str(tmp_path), "--data", "DATA", "--runs", "second", "--seeds", "7", "--job", "second-seed7", "--steps", "100"]
    assert study.main(arguments) == 0
    written = json.loads((tmp_path / "second-seed7.json").read_text())
    assert written["parameters"] == 8 and written["passes"] == 0.5 and written["cpu_seconds"] == 12.5
    assert written["scores"] == {"kitti/Car_3D_moderate_R40": 5.0} and written["data"] == "SYNTHETIC"
    assert calls["train"][0][2] == "auto" and calls["train"][1] == {"seed": 7}
    assert calls["test"][1] == tmp_path / "second-seed7" / "epoch_10.pth"


@pytest.mark.slow
def test_a_real_study_of_two_models(tmp_path):
    pytest.importorskip("mmdet3d")
    command = [sys.executable, str(TOOLS / "study.py"), "--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    command += ["--train", "12", "--val", "3", "--budget", "4", "--runs", "mamba", "second", "--seeds", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("mamba", "second"):
        written = json.loads((tmp_path / "out" / f"{name}-seed0.json").read_text())
        assert written["steps"] >= 10 and written["cpu_seconds"] > 0.5
        assert 0 <= written["scores"]["kitti/Car_3D_moderate_R40"] <= 100
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "started" not in again.stdout and "| second | 0 |" in again.stdout
