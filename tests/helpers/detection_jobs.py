"""Jobs of the detectors on a little of the shipped set, as a platform runs them; for tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOOD_CELLS = ROOT / "tests" / "data" / "blood_cells"
NAMES = ["RBC", "WBC", "Platelets"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Ended:
    """A job that has ended. polls: (seconds after the start, answer) for every answer with status 200."""

    status: int
    output: str
    log_dir: Path
    polls: list[tuple[float, list[list[float]]]]
    first_answer: float

    def json(self, name: str) -> Any:
        return json.loads((self.log_dir / name).read_text())

    def log(self) -> str:
        return (self.log_dir / "estimator.log").read_text()

    @property
    def last_line(self) -> str:
        return self.output.strip().splitlines()[-1]


def fit(
    script: str,
    log_dir: Path,
    config: dict[str, Any],
    *options: str,
    linger: float = 0,
    environment: dict[str, str] | None = None,
) -> Ended:
    """Run a job of `script` (its path in the project) to its end, polling its progress."""
    path = log_dir.parent / f"{log_dir.name}.json"
    path.write_text(json.dumps({"log_dir": str(log_dir), "gpus": [], **config}))
    port = free_port()
    command = [
        sys.executable,
        script,
        "--config",
        str(path),
        "--port",
        str(port),
        "--linger",
        str(linger),
    ]
    address = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=progress"
    polls: list[tuple[float, list[list[float]]]] = []
    began, over = time.monotonic(), threading.Event()

    def poll() -> None:
        while not over.wait(0.05):
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(address, method="POST"), timeout=5
                ) as answer:
                    polls.append((time.monotonic() - began, json.load(answer)))
            except (urllib.error.URLError, OSError, ValueError):
                continue

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        done = subprocess.run(
            [*command, *options],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        over.set()
        poller.join()
    return Ended(
        done.returncode, done.stdout + done.stderr, log_dir, polls, polls[0][0] if polls else float("nan")
    )


def subset(folder: Path, train: int = 10, valid: int = 4) -> Path:
    """A small copy of the shipped set."""
    for name, count in (("detect_train", train), ("detect_valid", valid)):
        (folder / name).mkdir(parents=True)
        for image in sorted((BLOOD_CELLS / name).glob("*.jpg"))[:count]:
            shutil.copy(image, folder / name)
            shutil.copy(image.with_suffix(".txt"), folder / name)
    return folder
