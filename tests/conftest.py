"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: its kernels then run on CPU tensors


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of reference data beside the project; the test skips, saying so, where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference data folder {path.name!r} is not beside the project")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens", default=None, help="folder of stored cases for tests/parity (default: ../shared/goldens beside the project)"
    )
    parser.addoption("--backend", default=None, help="tests/parity: only the stored operator cases, on this back end")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "goldens(family, pattern): runs once per stored file that matches")
