"""An integration runs whichever package is imported first, and however; timm knows our models."""

import importlib
import importlib.util
import subprocess
import sys
import threading

import pytest

from visionrnn.integrations import on_import

NAME = "package_of_others"
ASKS = f"from visionrnn.integrations.on_import import when_imported\nwhen_imported({NAME!r})\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the path, an integration for it that counts its runs, neither imported yet; the package's source can be changed."""
    (tmp_path / NAME).mkdir()
    source = tmp_path / NAME / "__init__.py"
    source.write_text("value = 1\n")
    (tmp_path / NAME / "part.py").write_text("")
    (tmp_path / "integration_of_ours.py").write_text(f"import sys, {NAME}\nassert {NAME}.value == 1\nsys.runs.append({NAME})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(on_import.INTEGRATIONS, NAME, "integration_of_ours")
    monkeypatch.setattr(sys, "runs", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield source
    for name in (NAME, f"{NAME}.part", "integration_of_ours"):
        sys.modules.pop(name, None)


def check(runs: int = 1) -> None:
    module = sys.modules[NAME]
    assert len(sys.runs) == runs and sys.runs[-1] is module
    assert type(module.__spec__).__name__ == "ModuleSpec" and not getattr(module.__spec__, "_initializing", False)
    assert "exec_module" not in vars(module.__loader__)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.part", "integration_of_ours"])
def test_ours_first(package, name):
    on_import.when_imported(NAME)
    on_import.when_imported(NAME)
    assert not sys.runs and NAME not in sys.modules
    importlib.import_module(name)
    check()


def test_ours_second(package):
    importlib.import_module(NAME)
    on_import.when_imported(NAME)
    on_import.when_imported(NAME)
    check()


def test_inside_the_other_import(package):
    package.write_text(
        f"from visionrnn.integrations.on_import import when_imported\nwhen_imported({NAME!r})\nimport {NAME}.part\nvalue = 1\n"
    )
    importlib.import_module(NAME)
    check()


def test_searched_for_only(package):
    on_import.when_imported(NAME)
    spec = importlib.util.find_spec(NAME)
    assert spec.origin == str(package) and type(spec.loader).__name__ == "SourceFileLoader" and not sys.runs
    assert importlib.util.find_spec("package_that_is_not_there") is None
    importlib.import_module(NAME)
    check()


def test_a_finder_of_the_old_kind(package):
    class OldFinder:
        def find_module(self, name, path=None):
            return None

    sys.meta_path.insert(0, OldFinder())
    on_import.when_imported(NAME)
    assert sys.meta_path[0].find_spec(NAME).origin == str(package)


def test_reloaded(package):
    on_import.when_imported(NAME)
    module = importlib.import_module(NAME)
    importlib.reload(module)
    check()


def test_imported_anew(package):
    on_import.when_imported(NAME)
    first = importlib.import_module(NAME)
    del sys.modules[NAME]
    assert importlib.import_module(NAME) is not first
    check(2)


def test_failed_import(package):
    package.write_text(f"{ASKS}raise ValueError('broken')\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            importlib.import_module(NAME)
    assert NAME not in sys.modules and not sys.runs
    package.write_text("value = 1  # mended, and longer than before so that no stale byte code is taken\n" * 9)
    importlib.import_module(NAME)
    check()


def test_integration_that_fails_is_a_warning(package):
    (package.parents[1] / "integration_of_ours.py").write_text(f"from {NAME} import what_only_newer_ones_have\n")
    on_import.when_imported(NAME)
    with pytest.warns(UserWarning, match=f"could not register its models with {NAME}: cannot import name"):
        module = importlib.import_module(NAME)
    assert module.value == 1


def test_threads(package):
    package.write_text("import time\ntime.sleep(0.1)\nvalue = 1\n")
    finished, barrier = [], threading.Barrier(8)

    def load(number: int) -> None:
        barrier.wait()
        if number % 2:
            on_import.when_imported(NAME)
        importlib.import_module(NAME)
        finished.append(number)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 8
    check()


KNOWS = "assert timm.is_model('vil2_tiny_patch16_224') and timm.list_models('visionrnn*')"
ORDERS = {
    "ours first": "import visionrnn; assert 'timm' not in sys.modules and 'visionrnn.backbones' not in sys.modules; import timm",
    "timm first": "import timm, visionrnn",
}


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("order", ORDERS)
def test_timm(order):
    done = run(f"import sys; {ORDERS[order]}; {KNOWS}")
    assert done.returncode == 0, done.stderr


def test_without_timm():
    done = run(
        "import sys; sys.modules['timm'] = None; import visionrnn, visionrnn.backbones; print('fine'); import visionrnn.integrations.timm"
    )
    assert done.stdout == "fine\n" and "MissingPackageError: timm is not installed" in done.stderr and "pip install timm" in done.stderr
