"""Jobs that benchmarks run, as a platform would: resumed where they were cut off, left alone where they are done."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def status_of(log_dir: Path) -> dict[str, Any]:
    """status.json, empty where there is none."""
    path = log_dir / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def finished(script: str, made: Mapping[str, Any], threads: int, ranks: int = 1) -> dict[str, Any]:
    """The status of a configuration's job when it has finished. threads: of each of its ranks. Raises SystemExit with
    its reason where it fails."""
    log_dir = Path(made["log_dir"])
    log_dir.mkdir(parents=True, exist_ok=True)
    path = log_dir.with_suffix(".json")
    path.write_text(json.dumps(made, indent=1))
    if status_of(log_dir).get("state") != "finished":
        again = ["--resume"] if (log_dir / "training_state.pkl").exists() else []
        command = [sys.executable, script, "--config", str(path), "--linger", "0", "--port", str(free_port())]
        started = [
            subprocess.Popen(
                [*command, *again],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), **place},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for place in _places(ranks)
        ]
        ends = [process.communicate()[1].strip().splitlines() for process in started]
        if any(process.returncode for process in started):
            raise SystemExit(f"{path}: {(ends[0] or ['ended without a message'])[-1]}")
    return status_of(log_dir)


def _places(ranks: int) -> list[dict[str, str]]:
    """What torchrun would set for each of several ranks."""
    if ranks == 1:
        return [{}]
    common = {
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    found = [
        {**common, "GLOO_SOCKET_IFNAME": "lo", "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)
    ]
    return [{name: str(value) for name, value in place.items()} for place in found]
