"""The console script: dispatch, how errors are shown, how configs are found, what the doctor says."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionrnn import cli
from visionrnn.cli import configs, doctor, environment
from visionrnn.errors import CheckpointError, DataError, MissingPackageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def failing_command(monkeypatch):
    """Replaces the module of every subcommand by one that raises the given error."""

    def install(error: Exception) -> None:
        def run(args: argparse.Namespace) -> int:
            raise error

        module = SimpleNamespace(__doc__="fails", add_arguments=lambda parser: None, run=run)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)

    return install


@pytest.fixture
def config_dir(tmp_path, monkeypatch):
    for name in ("_base_/model.py", "lion/lion-a.py", "lion/twin.py", "baselines/second.py", "baselines/twin.py"):
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr(configs, "CONFIG_DIR", tmp_path / "configs")
    return tmp_path / "configs"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    for command in cli.COMMANDS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {command} ")]
        assert len(line.split()) > 2, f"{command} has no help text"


def test_no_command_shows_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_unknown_command_names_the_closest(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["trian"])
    assert exit_info.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [DataError, CheckpointError, MissingPackageError])
def test_user_error_is_one_line(kind, failing_command, capsys, monkeypatch):
    monkeypatch.delenv("VISIONRNN_DEBUG", raising=False)
    failing_command(kind("frame.bin: 7 bytes,\n  expected a multiple of 16"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: frame.bin: 7 bytes, expected a multiple of 16\n"


@pytest.mark.parametrize("way", ["option", "variable"])
def test_debug_prints_the_traceback(way, failing_command, capsys, monkeypatch):
    failing_command(DataError("bad"))
    if way == "variable":
        monkeypatch.setenv("VISIONRNN_DEBUG", "1")
    assert cli.main(["train", "--debug"] if way == "option" else ["train"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("error: bad\n")


def test_other_errors_are_not_hidden(failing_command):
    failing_command(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["train"])


@pytest.mark.parametrize("name", ["lion-a", "lion-a.py", "lion/lion-a", "lion/lion-a.py", "configs/lion/lion-a.py"])
def test_config_by_name(name, config_dir):
    assert configs.find_config(name) == config_dir / "lion" / "lion-a.py"


def test_config_by_path_wins(config_dir, tmp_path, monkeypatch):
    own = tmp_path / "lion-a.py"
    own.write_text("x = 2\n")
    monkeypatch.chdir(tmp_path)
    assert configs.find_config("lion-a.py") == own
    assert configs.find_config(own) == own
    assert configs.find_config("lion-a") == config_dir / "lion" / "lion-a.py"


def test_config_errors(config_dir):
    with pytest.raises(DataError, match=r"'lion-b'.*close names: lion-a"):
        configs.find_config("lion-b")
    with pytest.raises(DataError, match=r"known names: second, twin, lion-a$"):
        configs.find_config("zzz")
    with pytest.raises(DataError, match=r"several configs.*baselines/twin, lion/twin"):
        configs.find_config("twin")
    assert configs.find_config("lion/twin") == config_dir / "lion" / "twin.py"


def test_configs_leave_bases_out(config_dir):
    assert configs.list_configs() == ["baselines/second", "baselines/twin", "lion/lion-a", "lion/twin"]


def test_tools_run_from_another_folder(tmp_path):
    """A tool's script works without installation, and tells its own subcommand."""
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "doctor.py"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: visionrnn doctor")


QUICK = tuple(package for package in environment.PACKAGES if package.name in ("torch", "numpy"))
ABSENT = environment.Package("no-such-package", "nothing", "import no_such_module", "no-such-package>=2")


ROW = {"distribution": "x", "version": None, "also_installed": [], "error": None, "purpose": "p"}
ABSENT_ROWS = dict.fromkeys(("mmengine", "mmcv", "mmdet", "mmdet3d", "timm", "torchvision"), ROW)


@pytest.fixture(scope="module")
def report():
    return environment.inspect_environment((*QUICK, ABSENT))


def test_report_is_plain_and_complete(report):
    assert json.loads(json.dumps(report)) == report
    assert report["core_works"] and report["core_error"] is None
    assert report["packages"]["torch"]["version"] and report["packages"]["torch"]["error"] is None
    assert report["missing"] == [{"package": "no-such-package", "purpose": "nothing", "command": "pip install 'no-such-package>=2'"}]
    assert "reference" in report["backends"]["diagonal"]["available"]
    assert report["devices"]["cpu"]["threads"] >= 1


def test_report_of_a_broken_package():
    broken = environment.Package("numpy", "everything", "import numpy; raise OSError('libx.so.1: cannot open shared object file')", "numpy")
    report = environment.inspect_environment((broken,))
    assert not report["core_works"]
    assert report["packages"]["numpy"]["error"] == "OSError: libx.so.1: cannot open shared object file"
    text = doctor.render({**report, "packages": ABSENT_ROWS | report["packages"]})
    assert "FAILS" in text and "install it with the system's package manager" in text and "The core does not work" in text


def test_remedies():
    usb = "ImportError: libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    assert environment.remedy(usb).endswith("apt-get install libusb-1.0-0")
    assert "missing: libx.so.1; install it" in environment.remedy("OSError: libx.so.1: cannot open shared object file")


def test_conflicts():
    texts = list(environment.find_conflicts({"mmdet3d": "1.4.0", "numpy": "2.1.0"}))
    assert any("mmdet3d needs numpy < 2, found 2.1.0" in text for text in texts)


@pytest.mark.skipif(environment.installed("torchvision") is None, reason="torchvision is not installed")
def test_torchvision_of_another_torch_is_a_conflict():
    (text,) = environment.find_conflicts({"torchvision": environment.installed("torchvision"), "torch": "2.0.0"})
    assert text.startswith("torchvision ") and "found 2.0.0; run: pip install 'torch" in text


@pytest.mark.skipif(environment.installed("mmdet3d") is None, reason="mmdet3d is not installed")
def test_mmcv_that_mmdet3d_refuses():
    texts = list(environment.find_conflicts({"mmdet3d": environment.installed("mmdet3d"), "mmcv": "2.2.0"}))
    assert any("refuses mmcv 2.2.0" in text for text in texts)


def test_doctor_prints_text_and_json(report, capsys, monkeypatch):
    report = {**report, "packages": report["packages"] | ABSENT_ROWS}
    monkeypatch.setattr(doctor, "inspect_environment", lambda: report)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for title in ("Packages", "Devices", "Kernel back ends", "Missing", "Conflicts"):
        assert f"\n{title}\n" in text
    assert "Detectors (train, test, detect): not available." in text and "Image classifiers (train, test): not available." in text
    works = {**ROW, "version": "1.0"}
    present = {**report, "packages": report["packages"] | dict.fromkeys(("mmengine", "timm", "torchvision"), works)}
    assert "Image classifiers (train, test): ready." in doctor.render(present)
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    report["core_works"] = False
    assert cli.main(["doctor"]) == 1
