"""What is installed: imports stay light, the tree is as CONTRIBUTING.md says, a wheel works outside the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from visionrnn.kernels import native
from visionrnn.kernels.native.build import BUILDS, find_compiler

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *(".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"),
    *("configs", "constraints.txt", "data", "docs", "kernels", "pyproject.toml", "setup.py", "tests", "tools", "visionrnn"),
}
OPTIONAL = ("timm", "mmengine", "mmcv", "mmdet", "mmdet3d", "spconv", "open3d", "triton", "matplotlib", "torchvision")
IMPORT_SECONDS = """
import sys, time
import torch
torch_modules = set(sys.modules)
start = time.perf_counter()
import visionrnn
seconds = time.perf_counter() - start
print(seconds, *sorted({name.partition(".")[0] for name in set(sys.modules) - torch_modules}))
"""


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # what is imported is what is installed


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] = ENVIRONMENT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = run("git", "ls-files", "-z").split("\0")
    return [ROOT / name for name in names if name and not (ROOT / name).is_symlink() and (ROOT / name).is_file()]


def test_import_is_light():
    seconds, *modules = run(sys.executable, "-c", IMPORT_SECONDS).split()
    assert float(seconds) < 0.3
    assert not set(modules) & set(OPTIONAL)


def test_core_imports_no_optional_package():
    names = ["kernels", "operators", "backbones", "serialization", "datasets", "evaluation", "geometry", "checkpoints", "cli.configs"]
    imports = "; ".join(f"import visionrnn.{name}" for name in names)
    code = f"import sys, torch; before = set(sys.modules); {imports}; print(*(set(sys.modules) - before))"
    modules = {name.partition(".")[0] for name in run(sys.executable, "-c", code).split()}
    assert not modules & set(OPTIONAL)


def test_kernels_has_one_name():
    done = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "import visionrnn.kernels" in done.stderr


def test_top_level_tree():
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} == TOP_LEVEL


def test_links():
    for name in ("kernels", "configs"):
        assert (ROOT / "visionrnn" / name).is_symlink() and (ROOT / "visionrnn" / name).resolve() == ROOT / name


def test_files_are_short_and_name_no_machine():
    home = re.compile(r"(?<![\w.])/(?:root|work|home|Users|farm|mnt)/|(?<![\w.])/tmp/\w+_")
    for path in tracked_files():
        if path.suffix in (".py", ".md", ".toml", ".txt", "") and path.name != "LICENSE" and path != Path(__file__).resolve():
            text = path.read_text(encoding="utf-8")
            assert path.suffix != ".py" or text.count("\n") <= 500, f"{path.relative_to(ROOT)} has more than 500 lines"
            found = home.search(text)
            assert found is None, f"{path.relative_to(ROOT)} names a path of one machine: {text[found.start() :][:40]!r}"


def test_constraints_satisfy_the_metadata():
    requirements = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {name.lower(): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any("numpy<2" in text for text in project["dependencies"])
    for text in [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]:
        need = requirements.Requirement(text)
        assert need.specifier.contains(pins[need.name]), (
            f"constraints.txt pins {need.name} {pins[need.name]}, pyproject.toml asks for {text}"
        )


NATIVE_SCAN = """
import shutil, torch, visionrnn.kernels as kernels
assert not any(map(shutil.which, ("g++", "c++", "clang++", "gcc", "cc")))
x = torch.rand(1, 9, 8)
same = torch.allclose(kernels.diagonal_scan(x, -x, backend="native"), kernels.diagonal_scan(x, -x, backend="reference"))
print(kernels.native.build_name(), same)
"""


@pytest.mark.slow
def test_wheel_outside_the_checkout(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), ".")
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-linux_" in wheel.name or find_compiler() is None or sys.platform != "linux"
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "environment.pth").write_text(sysconfig.get_path("purelib"))  # the packages this test runs with, after the wheel's
    if find_compiler() is not None:  # the wheel carries the library: it works where there is no compiler
        name, same = run(python, "-c", NATIVE_SCAN, cwd=tmp_path, env={**ENVIRONMENT, "PATH": str(tmp_path / "venv" / "bin")}).split()
        assert name in BUILDS and same == "True"

    def visionrnn(*arguments: str) -> str:
        return run(str(tmp_path / "venv" / "bin" / "visionrnn"), *arguments, cwd=tmp_path)

    where = run(
        python, "-c", "import visionrnn.kernels as k, visionrnn.configs; print(k.__file__, *visionrnn.configs.__path__)", cwd=tmp_path
    )
    assert all(Path(path).is_relative_to(site) for path in where.split())
    assert "Kernel back ends" in visionrnn("doctor")
    for command in ("train", "test", "detect", "create-data", "visualize"):
        assert f"usage: visionrnn {command}" in visionrnn(command, "--help")
    code = "from visionrnn.cli.configs import *; print(*list_configs()); print(*(find_config(name) for name in list_configs()))"
    names, paths = run(python, "-c", code, cwd=tmp_path).splitlines()
    shipped = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").glob("[!_]*/*.py")}
    assert set(names.split()) == shipped and len(shipped) > 0
    assert all(Path(path).is_relative_to(site) for path in paths.split())


def test_the_native_library_is_built_where_there_is_a_compiler():
    """Tests that need the library are skipped without it: a build that failed must not pass for one that was not possible."""
    assert native.is_built() or find_compiler() is None or os.environ.get("VISIONRNN_NATIVE") == "off", native.HOW_TO_BUILD
