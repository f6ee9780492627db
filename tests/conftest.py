"""Shared fixtures."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of reference data beside the project; the test skips, saying so, where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference data folder {path.name!r} is not beside the project")
    return path
