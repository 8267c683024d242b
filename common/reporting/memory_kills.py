"""What the kernel counts of the processes that it has killed for want of memory."""

from __future__ import annotations

import contextlib
from pathlib import Path


def count() -> int:
    """How many processes the kernel has killed for want of memory: in this process's control group, else anywhere."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                files = [Path(f"/sys/fs/cgroup{path}/memory.events"), Path("/sys/fs/cgroup/memory.events")]
            elif "memory" in controllers.split(","):
                files = [
                    Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"),
                    Path("/sys/fs/cgroup/memory/memory.oom_control"),
                ]
            else:
                continue
            for file in files:
                if file.exists() and (kills := entry(file, "oom_kill")) is not None:
                    return kills
    return entry(Path("/proc/vmstat"), "oom_kill") or 0


def entry(file: Path, name: str) -> int | None:
    """The number behind a name in a file of such lines; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None
