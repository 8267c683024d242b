"""What all tests share."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from common.engine.devices import physical_cores
from common.reporting import warnings

ROOT = Path(__file__).resolve().parents[1]

# As in a job (common/reporting/log.py), whether or not a test before has begun one: `caplog` listens to such loggers
# by itself.
logging.getLogger("visualtl").propagate = False


# Those that the project handles.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD)

# Hundreds of jobs import the project: they compile its modules once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Where one process tests, it computes with as many threads as the jobs that it starts: sums are added up alike."""
    if not config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[object]) -> None:
    """Processes that test beside one another share the processors: where each took all of them for its computation,
    they would wait for one another most of the time."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(physical_cores() // len(specs), 1)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of whole jobs come first: what takes longest is not to be begun last, by one process while others idle."""
    modules = {item.path: vars(item.module) for item in items if isinstance(item, pytest.Function)}
    long = {
        path
        for path, names in modules.items()
        if any(getattr(value, "__module__", None) == "tests.helpers.jobs" for value in names.values())
    }
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What is random without a generator of its own is the same whatever has run before, for fixtures as well."""
    random.seed(0)
    np.random.seed(0)
    if mxnet := sys.modules.get("mxnet"):
        mxnet.random.seed(0)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """A test begins as a job does, and leaves the process as it was: in any order tests see the same."""
    warnings.forget()
    logger = logging.getLogger("visualtl")
    handlers, level = list(logger.handlers), logger.level
    folder, environment = Path.cwd(), dict(os.environ)
    signals = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    os.chdir(folder)
    for name in {*os.environ, *environment} - {"PYTEST_CURRENT_TEST"}:
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    for number, before in signals.items():
        if signal.getsignal(number) != before:
            signal.signal(number, before)


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
