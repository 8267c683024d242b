"""From the start of a job's process to its first HTTP answer and to its first training step, also with 100,000 images.

    python benchmarks/start.py [--images 1000] [--many 100000] [--repeats 3]

The images are small JPEGs with a text beside each, made here in folders of 1,000 (with links: 50 different files).
The job is YOLOv3 mobilenet1.0 at 256 px, batch 8, from random parameters, on the CPU. The log says when its training
begins, which is when the first step is due, and when that step is done: how long it takes is the network's affair, and
the system's that clears a gigabyte of memory for it. Beside it: `python -c "import mxnet, gluoncv"`, without which
nothing can train. For reading a set alone (paths, checks of images and annotations): the seconds with all processors,
beside a loop as people write it, which reads every file and decodes every image; and the memory of the process after
it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table

ROOT = table.ROOT
PROGRESS = "http://127.0.0.1:{}/data/plugin/scalars/scalars?run=.&tag=progress"
IN_A_FOLDER = 1000


def make_set(folder: Path, count: int) -> Path:
    """A detection set of `count` images of 64x48 with two objects each; returns its folder."""
    import numpy as np
    import simplejpeg

    rng = np.random.default_rng(0)
    train = folder / f"set{count}" / "detect_train"
    sources = []
    for number in range(50):
        source = folder / f"source{number}.jpg"
        if not source.exists():
            picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
            source.write_bytes(simplejpeg.encode_jpeg(picture, 80, "RGB", "420"))
        sources.append(source)
    for number in range(count):
        part = train / f"{number // IN_A_FOLDER:03d}"
        if number % IN_A_FOLDER == 0:
            part.mkdir(parents=True)
        # Names of one file, as writing 100,000 would take longer than what is measured.
        (part / f"{number:06d}.jpg").hardlink_to(sources[number % len(sources)])
        (part / f"{number:06d}.txt").write_text(
            f"0,2,3,{20 + number % 40},30\n1,10,10,30,{20 + number % 20}\n"
        )
    return train.parent


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a job's process to its first 200, to the beginning and to the end of its first step."""

    answered: float
    training: float
    stepped: float


def start_job(data: Path, log_dir: Path) -> Start:
    """Start a job, wait for its first step, and end it."""
    port = _free_port()
    config = {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {"data_root": str(data), "classes": ["a", "b"]},
        "model": {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [256, 256]},
        "train": {"pretrained_base": False, "batch_size": 8, "log_interval": 1, "no_random_shape": True},
    }
    path = log_dir.with_suffix(".json")
    path.write_text(json.dumps(config))
    log = log_dir / "estimator.log"
    script = str(ROOT / "detect" / "fit_yolov3.py")
    offset = log.stat().st_size if log.exists() else 0
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, script, "--config", str(path), "--port", str(port), "--linger", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answered = training = 0.0
        while process.poll() is None:
            if not answered and _answers(port):
                answered = time.perf_counter() - began
            if log.exists():
                with log.open("rb") as file:
                    file.seek(offset)
                    lines = file.read()
                if not training and b"INFO Training: " in lines:
                    training = time.perf_counter() - began
                if b"[Batch 1/" in lines:
                    return Start(answered, training, time.perf_counter() - began)
            time.sleep(0.01)
        raise SystemExit(f"the job ended with status {process.returncode} before its first step")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(PROGRESS.format(port), timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    import socket

    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def floor() -> float:
    """Seconds of a process that only imports MXNet and GluonCV."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mxnet, gluoncv"], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def read(options: argparse.Namespace) -> None:
    """Read the set `options.data` as a job does."""
    from common.data.samples import read_folder
    from common.engine.devices import processors
    from common.processes.pool import WorkerPool
    from detect.annotations import DetectionAnnotations

    with WorkerPool(processors()) as pool:
        pool.result(pool.submit(len, ()))  # a job has its workers by then
        before, began = _memory(), time.perf_counter()
        samples, _ = read_folder(
            options.data, DetectionAnnotations(2), pool, lambda share: None, options.cache
        )
        table.tell(seconds=time.perf_counter() - began, memory=_memory() - before, count=len(samples))


def naive(options: argparse.Namespace) -> None:
    """Read the set as a data set class that people write does."""
    import cv2
    import numpy as np

    before, began, samples = _memory(), time.perf_counter(), []
    for folder, _, names in os.walk(options.data):
        for name in sorted(names):
            if name.endswith(".jpg"):
                image = os.path.join(folder, name)
                pixels = cv2.imread(image)
                with open(os.path.splitext(image)[0] + ".txt") as file:
                    rows = [[float(part) for part in line.split(",")] for line in file]
                samples.append((image, pixels.shape[:2], np.array(rows, np.float32)))
    table.tell(seconds=time.perf_counter() - began, memory=_memory() - before, count=len(samples))


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: argparse.Namespace) -> list[table.Row]:
    """Everything, in turns."""
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        few, many = make_set(folder, options.images), make_set(folder, options.many)
        floors, starts = [], []
        start_job(few, folder / "warm")
        for number in range(options.repeats):
            floors.append(floor())
            starts.append(start_job(few, folder / f"few{number}"))
        what = f"start of the process to the %s, {options.images} images, s"
        importing = 'python -c "import mxnet, gluoncv"'
        answers = [start.answered for start in starts]
        rows.append(table.compare(what % "first 200 of the endpoint", answers, reach="2.5 s"))
        reach = f"limit + 2 s = {statistics.median(floors) + 2:.2g} s"
        for when, seconds in (
            ("first step's beginning", [start.training for start in starts]),
            ("first step's end", [start.stepped for start in starts]),
        ):
            rows.append(table.compare(what % when, seconds, limit=importing, bounds=floors, reach=reach))
        sides: dict[str, list[dict[str, float]]] = {"read": [], "again": [], "naive": []}
        small = table.side("start.py", "read", "--data", few / "detect_train")
        for number in range(options.repeats):
            cache = ("--data", many / "detect_train", "--cache", folder / f"cache{number}.npz")
            for side, measured in sides.items():
                measured.append(table.side("start.py", "naive" if side == "naive" else "read", *cache))

        def values(side: str, key: str) -> list[float]:
            return [figures[key] for figures in sides[side]]

        what = f"reading and checking {options.many} images, "
        peer = "a loop that reads every file"
        rows.append(
            table.compare(
                what + "s", values("read", "seconds"), peer, values("naive", "seconds"), reach="30 s"
            )
        )
        rows.append(
            table.compare(
                f"reading {options.many} images again, none changed, s",
                values("again", "seconds"),
                "the first time",
                values("read", "seconds"),
                reach="faster",
            )
        )
        above = [value - small["memory"] for value in values("read", "memory")]
        rows.append(
            table.compare(
                what + f"MB more than {options.images}",
                above,
                peer,
                [value - small["memory"] for value in values("naive", "memory")],
                reach="200 MB",
            )
        )
        first, second = [], []
        for number in range(max(options.repeats - 1, 1)):
            log_dir = folder / f"many{number}"
            first.append(start_job(many, log_dir).stepped)
            second.append(start_job(many, log_dir).stepped)
        what = f"start of the process to the first step's end, {options.many} images, s"
        rows.append(table.compare(what, first, limit=importing, bounds=floors[: len(first)]))
        rows.append(table.compare(f"{what}, second start", second, "first start", first, reach="faster"))
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = table.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.images, options.many, options.repeats = 50, 1200, 1
    if options.side:
        {"read": read, "naive": naive}[options.side](options)
    table.report(measure(options), options)


if __name__ == "__main__":
    main()
