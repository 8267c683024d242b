"""Writing and reading a training state: what a training waits for after every epoch.

    python benchmarks/checkpoint.py [--megabytes 290] [--repeats 7]

The state has four arrays for each layer, as with adam and a moving average, of all sizes. Beside it: a pickle, which is
what version 1.2.0 wrote, without a checksum; the limit is the same bytes alone. All are written whole and flushed to
the disk. The file is in the page cache when it is read, as after an epoch.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from common.training.checkpoint import read_checkpoint, write_checkpoint

TASK = "benchmark"


def state_of(megabytes: float) -> dict[str, Any]:
    """A training state of so many megabytes: four arrays for each of 360 layers, most of whose numbers are in few."""
    rng = np.random.default_rng(0)
    weights = rng.pareto(0.8, 360) + 1
    sizes = np.maximum(weights / weights.sum() * megabytes * 1e6 / 16, 1).astype(int)
    arrays = [
        {f"layer{i}.weight": rng.standard_normal(size, np.float32) for i, size in enumerate(sizes)}
        for _ in range(4)
    ]
    return {
        "classes": [], "model": {}, "configuration": {}, "epoch": 1, "parameters": arrays[0],
        "average": {"updates": 9, "trained": arrays[1], "statistics": {}},
        "optimizer": {"states": {name: [value, arrays[3][name]] for name, value in arrays[2].items()}},
    }  # fmt: skip


def written(path: Path, write: Callable[[Any], object]) -> float:
    """Seconds for a file that `write` fills, flushed to the disk and renamed."""
    began = time.perf_counter()
    aside = path.with_suffix(".part")
    with open(aside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return time.perf_counter() - began


def seconds(work: Callable[[], object]) -> float:
    """Seconds of `work`, with what it made gone again."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw(path: Path) -> None:
    """The bytes of a file into memory of their own."""
    memory = bytearray(path.stat().st_size)
    with open(path, "rb", buffering=0) as file:
        file.readinto(memory)


def main() -> None:
    """Print the rows."""
    made = table.parser(__doc__)
    made.add_argument("--megabytes", type=float, default=290)
    made.add_argument("--repeats", type=int, default=7)
    options = made.parse_args()
    megabytes, repeats = (2, 2) if options.quick else (options.megabytes, options.repeats)
    state = state_of(megabytes)
    names = ("write", "write pickle", "write bytes", "read", "read network", "read pickle", "read bytes")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        ours, pickled, plain = (Path(folder) / name for name in ("ours", "pickle", "bytes"))
        write_checkpoint(ours, TASK, state)
        content = ours.read_bytes()
        for _ in range(repeats):
            times["write"].append(seconds(lambda: write_checkpoint(ours, TASK, state)))
            times["write pickle"].append(written(pickled, lambda file: pickle.dump(state, file, 4)))
            times["write bytes"].append(written(plain, lambda file: file.write(content)))
            times["read"].append(seconds(lambda: read_checkpoint(ours, TASK)))
            times["read network"].append(
                seconds(lambda: read_checkpoint(ours, TASK, arrays_of=("parameters",)))
            )
            times["read pickle"].append(seconds(lambda: pickle.loads(pickled.read_bytes())))
            times["read bytes"].append(seconds(lambda: raw(ours)))
    size = f"a training state of {megabytes:g} MB"
    limit = "the bytes alone"
    rows = [
        table.compare(f"writing {size}, s", times["write"], "a pickle", times["write pickle"], limit=limit,
                      bounds=times["write bytes"]),
        table.compare(f"reading {size}, checked, s", times["read"], "a pickle", times["read pickle"], limit=limit,
                      bounds=times["read bytes"]),
        table.compare(f"reading the network of {size}, checked, s", times["read network"], "a pickle",
                      times["read pickle"], limit=limit, bounds=times["read bytes"]),
    ]  # fmt: skip
    table.report(rows, options)


if __name__ == "__main__":
    main()
