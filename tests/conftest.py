"""What every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and golden values, or a skip that says why."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("RECALIGN_SHARED", default))
    if not (path / "golden").is_dir():
        pytest.skip(f"no real data or golden values at {path} (set RECALIGN_SHARED)")
    return path
