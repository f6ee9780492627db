"""The parity suite reads every case that lies in the folder given with ``--goldens`` (default: ../shared/goldens beside the project)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stored import Golden


def goldens_root(config: pytest.Config) -> Path:
    given = config.getoption("--goldens")
    return Path(given) if given else Path(__file__).resolve().parents[2].parent / "shared" / "goldens"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test marked ``goldens(family, pattern)`` once for every stored file that matches."""
    marker = metafunc.definition.get_closest_marker("goldens")
    if marker is None:
        return
    family, pattern = marker.args
    root = goldens_root(metafunc.config)
    files = sorted((root / family).glob(pattern))
    if not files:
        files = [None]
    metafunc.parametrize("golden", files, ids=[file.stem if file else "absent" for file in files], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--backend NAME`` leaves the cases of one back end. Triton's interpreter is slow: without a GPU it runs when asked for only."""
    wanted, here = config.getoption("--backend"), Path(__file__).parent
    kept, dropped = [], []
    for item in items:
        backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        fits = backend == wanted if wanted else backend != "triton" or torch.cuda.is_available()
        (kept if fits or here not in item.path.parents else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.fixture
def goldens_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of stored cases; one that was asked for by name must be there."""
    root = goldens_root(request.config)
    if request.config.getoption("--goldens") and not root.is_dir():
        pytest.fail(f"--goldens {root}: there is no such folder")
    return root


@pytest.fixture
def golden(request: pytest.FixtureRequest, goldens_folder: Path) -> Golden:
    if request.param is None:
        pytest.skip(f"no stored cases for this test in {goldens_folder}")
    return Golden(request.param)


def deviation(value: torch.Tensor, expected: torch.Tensor) -> float:
    """max |value - expected| / max |expected|."""
    value, expected = value.detach().double(), expected.double()
    assert value.shape == expected.shape, f"{list(value.shape)} instead of {list(expected.shape)}"
    return float((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30)) if expected.numel() else 0.0


@pytest.fixture
def close():
    def check(value: torch.Tensor, expected: torch.Tensor, bound: float, what: str) -> None:
        found = deviation(value, expected)
        assert found <= bound, f"{what}: deviation {found:.2e}, bound {bound:.0e}"

    return check
