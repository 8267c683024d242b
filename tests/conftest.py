"""What all tests share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from common.devices import physical_cores

ROOT = Path(__file__).resolve().parents[1]

# Files of tests that run beside one another share the processors: where each took all of them for its computation, they
# would spend their time waiting for one another.
os.environ.setdefault(
    "OMP_NUM_THREADS", str(max(physical_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 1))
)

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
