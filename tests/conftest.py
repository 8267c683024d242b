"""What all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.engine.devices import physical_cores
from common.reporting import warnings

ROOT = Path(__file__).resolve().parents[1]

# As in a job (common/reporting/log.py), whether or not a test before has begun one: `caplog` listens to such loggers
# by itself.
logging.getLogger("visualtl").propagate = False


# Hundreds of jobs import the project: they compile its modules once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[object]) -> None:
    """Processes that test beside one another share the processors: where each took all of them for its computation,
    they would wait for one another most of the time."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(physical_cores() // len(specs), 1)))


@pytest.fixture(autouse=True)
def _nothing_warned_of() -> None:
    """A test begins as a job does, without what tests before it in this process were warned of."""
    warnings.forget()


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
