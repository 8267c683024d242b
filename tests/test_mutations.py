"""Whatever has become of a file, its reader takes it or refuses it: no hang, no traceback, no signal, no memory.

200 cases a reader; `make soak` (FUZZ=10) tries 10 000. Every run takes others; the seed of one that fails is printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.mutations import READERS

ROOT = Path(__file__).resolve().parents[1]
FACTOR = int(os.environ.get("FUZZ", "1"))
COUNT = 200 if FACTOR == 1 else 1000 * FACTOR


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where files are written anew ten thousand times: in memory, where that can be."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.mark.parametrize("reader", READERS)
def test_a_mutated_file_is_read_or_refused(folder: Path, tmp_path: Path, reader: str) -> None:
    seed = time.time_ns() % 10**12
    command = [sys.executable, "-m", "tests.helpers.mutations", reader, str(COUNT), str(seed), str(folder)]
    with open(tmp_path / "output", "w+b") as output:
        # Twice the time that the slowest reader takes for the cases here; a case that hangs in native code ends then.
        done = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=120 + COUNT * 0.2
        )
        output.seek(0)
        told = output.read().decode("utf-8", "replace")
    assert done.returncode == 0, f"status {done.returncode}: {told[-3000:]}"
    assert told.count(": seed ") == COUNT
