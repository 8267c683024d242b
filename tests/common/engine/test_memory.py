"""What memory there is, as the machine and its container say."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from common.engine.memory import Gauge

MB = 1 << 20


def machine(root: Path, available: int, files: dict[str, str]) -> Gauge:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text("0::/job\n")
    for name, content in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(content)
    return Gauge((), root)


def test_without_a_limit_there_is_what_the_machine_has(tmp_path: Path) -> None:
    assert machine(tmp_path, 500 * MB, {"memory.max": "max\n", "memory.current": "7"}).free() == 500 * MB


def test_a_containers_limit_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    files = {
        "job/memory.max": f"{300 * MB}\n",
        "job/memory.current": f"{250 * MB}\n",
        "job/memory.stat": f"anon 1\ninactive_file {40 * MB}\n",
    }
    assert machine(tmp_path, 500 * MB, files).free() == 90 * MB


def test_version_1_of_control_groups_is_read(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": f"{200 * MB}", "memory/memory.usage_in_bytes": f"{50 * MB}"}
    assert machine(tmp_path, 500 * MB, files).free() == 150 * MB


def test_what_is_taken_counts_even_if_it_was_given_back() -> None:
    gauge = Gauge(())
    gauge.reset()
    np.ones(100 * MB, np.uint8).sum()
    assert 90 * MB < gauge.taken() < 200 * MB
    gauge.reset()
    assert gauge.taken() < 50 * MB


def test_what_a_gpu_keeps_to_use_it_again_is_given_back_before_a_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, emptied = [700 * MB, 500 * MB, 650 * MB], []
    monkeypatch.setattr(mx.context, "gpu_memory_info", lambda gpu: (free.pop(0), 1000 * MB))
    monkeypatch.setattr(mx.Context, "empty_cache", lambda context: emptied.append(str(context)))
    gauge = Gauge([3])
    gauge.reset()
    assert emptied == ["gpu(3)"]
    assert gauge.taken() == 200 * MB
    gauge.reset()
    assert emptied == ["gpu(3)", "gpu(3)"]
