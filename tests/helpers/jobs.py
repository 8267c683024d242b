"""Jobs as a platform runs them, and the smallest of all scripts for tests that interrupt and disturb them.

`fit` runs a job to its end; `start` gives a running one, for `finish`, `fail` and `wait_for`. Both fork it from a
process that has imported MXNet (`tests.helpers.warm`), unless it is to be `fresh`, with a Python of its own.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.training.checkpoint import read_checkpoint
from tests.helpers.warm import Forked, Starter

Process = subprocess.Popen[str] | Forked

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "classification": "classification/fit_classification.py",
    "reid": "reid/fit_reid.py",
    "landmark": "landmark/fit_landmark.py",
    "yolov3": "detect/fit_yolov3.py",
    "centernet": "detect/fit_center_net.py",
    "ssd": "detect/fit_ssd.py",
}
#: Each of them: the cheapest stands for the others in the quick suite.
EVERY_SCRIPT = [
    pytest.param(task, marks=() if task == "classification" else pytest.mark.slow) for task in SCRIPTS
]
EPOCHS = 3
JOINTS = 3
_DETECT = {"data_shape": [64, 64], "use_pretrained": False}
_SMALL = {"base_network": "mobilenet0.25", "use_pretrained": False}
# Without the gentle start that a job has by default, limits on steps are at work from the first one on.
_SIZE = {"input_width": 32, "input_height": 32, "lr": 0.01, "warmup_epochs": 0.1}
_SECTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "classification": {"model": _SMALL, "train": _SIZE},
    "reid": {"model": _SMALL, "train": {**_SIZE, "batch_size": 8}},
    "landmark": {"model": _SMALL, "train": _SIZE, "dataset": {"num_joints": JOINTS}},
    "yolov3": {
        "model": {**_DETECT, "base_network": "mobilenet1.0"},
        # A step costs what 24 million parameters cost, however few images it has.
        "train": {"no_random_shape": True, "batch_size": 12},
        "dataset": {"classes": ["dark", "light"]},
    },
    "centernet": {
        "model": {**_DETECT, "base_network": "resnet18_v1b"},
        "train": {"pretrained_base": False, "batch_size": 12},
        "dataset": {"classes": ["dark", "light"]},
    },
    "ssd": {
        "model": {**_DETECT, "base_network": "mobilenet1.0"},
        "train": {"pretrained_base": False},
        "dataset": {"classes": ["dark", "light"]},
    },
}


def make_data(folder: Path, train: int = 12, valid: int = 4) -> Path:
    """Sets for every script: `classes_train`, `boxes_train`, `points_train`, and the same for validation.

    Images are noise, light or dark, `train` of each for training.
    """
    rng = np.random.default_rng(0)
    texts = {"classes": None, "boxes": "{},4,6,30,34\n", "points": "3,4\n20,8\n10,30\n"}
    for part, count in (("train", train), ("valid", valid)):
        for label, (name, low) in enumerate((("dark", 0), ("light", 128))):
            for number in range(count):
                pixels = rng.integers(low, low + 128, (40, 40, 3)).astype(np.uint8)
                for kind, text in texts.items():
                    place = folder / f"{kind}_{part}" / (name if text is None else "")
                    place.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(place / f"{name}{number}.png")
                    if text is not None:
                        (place / f"{name}{number}.txt").write_text(text.format(label))
    return folder


def config(task: str, log_dir: Path, data: Path, **train: Any) -> dict[str, Any]:
    """The configuration of a job of seconds."""
    kind = {"landmark": "points", "yolov3": "boxes", "centernet": "boxes", "ssd": "boxes"}.get(
        task, "classes"
    )
    sections = copy.deepcopy(_SECTIONS[task])
    folders = {"data_root": str(data), "train_dir": f"{kind}_train", "valid_dir": f"{kind}_valid"}
    common = {
        "epochs": EPOCHS,
        "batch_size": 4,
        "num_workers": 1,
        # What happens at a step of the rate is to survive interruptions too.
        "lr_decay_epoch": str(EPOCHS - 1),
        "early_stop_max_value": 1e9,  # no job of a few images ends because it has learnt them
    }
    return {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {**folders, **sections.get("dataset", {})},
        "model": sections["model"],
        "train": {**common, **sections["train"], **train},
        "export": {"onnx": False},  # for a detector a fifth of its job; tests of these files ask for them
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(
    script: str, values: dict[str, Any], *options: str, port: int = 0, linger: float = 0
) -> list[str]:
    """The command line of a job; its configuration is written beside its log_dir."""
    log_dir = Path(values["log_dir"])
    path = log_dir.parent / f"{log_dir.name}.json"
    path.write_text(json.dumps(values))
    words = [sys.executable, script, "--config", str(path), "--port", str(port or free_port())]
    return [*words, *(() if linger is None else ("--linger", str(linger))), *options]


_THEN_THE_SCRIPT = (
    "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass
class Ended:
    """A job that has ended. polls: (seconds after the start, answer) for every answer of a job that was polled."""

    status: int
    output: str
    log_dir: Path
    polls: list[tuple[float, list[list[float]]]] = field(default_factory=list)

    def json(self, name: str) -> Any:
        return json.loads((self.log_dir / name).read_text())

    def log(self) -> str:
        return (self.log_dir / "estimator.log").read_text()

    @property
    def last_line(self) -> str:
        return self.output.strip().splitlines()[-1]


@functools.cache
def _starter() -> Starter:
    return Starter()


def fit(
    script: str,
    values: dict[str, Any],
    *options: str,
    environment: dict[str, str] | None = None,
    linger: float | None = 0,
    polled: bool = False,
    before: str = "",
    fresh: bool = False,
) -> Ended:
    """Run a job of `script` (its path in the project) to its end.

    polled: ask for its progress all the time. before: Python that is to run before the script, in its process, which is
    then fresh.
    """
    port, polls = free_port(), []
    words = command(script, values, *options, port=port, linger=linger)
    if before:
        words[1:1] = ["-c", f"{before}\n{_THEN_THE_SCRIPT}"]
    began, over = time.monotonic(), threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            if points := poll(port):
                polls.append((time.monotonic() - began, points))

    poller = threading.Thread(target=ask)
    if polled:
        poller.start()
    process = _begin(words, {**os.environ, **(environment or {})}, fresh or bool(before))
    try:
        output, _ = process.communicate(timeout=900)
    finally:
        process.kill()
        over.set()
        if polled:
            poller.join()
    return Ended(process.wait(), output, Path(values["log_dir"]), polls)


def _begin(words: list[str], environment: dict[str, str], fresh: bool) -> Process:
    if not fresh:
        return _starter().start(words[1:], environment)
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start(
    task: str,
    log_dir: Path,
    data: Path,
    *options: str,
    port: int = 0,
    prefix: Sequence[str] = (),
    fresh: bool = False,
    **train: Any,
) -> Process:
    """Start a job; prefix: a program that is to run it, which makes it fresh. Output is read by `finish` or
    `communicate`."""
    words = command(SCRIPTS[task], config(task, log_dir, data, **train), *options, port=port)
    return _begin([*prefix, *words], dict(os.environ), fresh or bool(prefix))


def finish(process: Process) -> str:
    """Wait for a job that ends well; returns what it wrote."""
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def fail(process: Process, status: int | None = None) -> str:
    """Wait for a job that fails, without a traceback; returns its last line without the word on trying again, which is
    held against the exit status. status: 1 or 3 unless given."""
    output, _ = process.communicate(timeout=900)
    assert "Traceback" not in output
    last, _, retry = output.strip().splitlines()[-1].partition(" [error.retry: ")
    expected = status if status is not None else {"true]": 1, "false]": 3}[retry]
    assert process.returncode == expected, output
    return last


def wait_for(log_dir: Path, text: str, process: Process) -> None:
    """Until `text` stands in the job's log."""
    for _ in range(6000):
        log = log_dir / "estimator.log"
        if log.exists() and text in log.read_text():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[0])
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came")


def parameters(task: str, log_dir: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = read_checkpoint(log_dir / "training_state.pkl", task)["parameters"]
    return found


def assert_same(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if wanted[name].tobytes() != found[name].tobytes()] == []


def children_of(pid: int) -> list[int]:
    """Ids of the processes that any thread of `pid`, or of these, has started and that are there."""
    texts = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            texts.append(path.read_text())
        except OSError:  # the thread has ended
            continue
    children = [int(child) for child in " ".join(texts).split()]
    return children + [other for child in children for other in children_of(child)]


def job_of(process: Process) -> int:
    """Id of the process that a supervisor looks after: the job itself."""
    return children_of(process.pid)[0]


def server_of(process: Process) -> int:
    """Id of a job's progress server."""
    return next(
        child for child in children_of(process.pid) if b"common.reporting.http_server" in _command(child)
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_gone(pids: Iterable[int]) -> None:
    """No process of these lives for more than a few seconds."""
    for _ in range(100):
        left = [pid for pid in pids if alive(pid)]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of the job are still there: {left}")


def poll(port: int) -> list[list[float]]:
    """The progress that a poller sees; nothing while nobody answers."""
    address = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=progress"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=5) as answer:
            found: list[list[float]] = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, ValueError):
        return []


def status(log_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((log_dir / "status.json").read_text())
    return found


def workers_of(process: Process) -> list[int]:
    """Ids of the data workers of a job."""
    return [child for child in children_of(process.pid) if b"common.processes.worker" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_root() -> bool:
    return os.geteuid() == 0
