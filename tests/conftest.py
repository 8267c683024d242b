"""What all tests share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# As in a job (common/log.py), whether or not a test before has begun one: `caplog` listens to such loggers by itself.
logging.getLogger("visualtl").propagate = False


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that may stand beside the project; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of pretrained parameters that may stand beside the project; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip("the pretrained parameters are not beside this checkout")
    return folder
