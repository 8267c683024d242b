"""Reading a large set in COCO and in YOLO, as a job begins.

    python3 benchmarks/formats.py [--images 100000] [--workers 2]

Images are tiny files, with eight boxes each; COCO's polygons make one JSON of 2 KB an image. Told are seconds and CPU
seconds of the first start and of the second, which has the cache, and the memory that the process gained, beside those
of a set of 100 images. Each start is a process of its own; the set is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from common.config.reading import configuration
from common.data.report import Report
from common.datasets import load_datasets
from common.processes.pool import WorkerPool
from detect.config import YOLOv3Config

OBJECTS = 8
CLASSES = 80
SIZE = (640, 480)


def make(folder: Path, count: int) -> None:
    """The set in both formats, in folders `coco` and `yolo`."""
    rng = random.Random(0)
    pixels = io.BytesIO()
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(pixels, "JPEG", quality=10)
    for name in ("coco/train", "coco/annotations", "yolo/train/images", "yolo/train/labels"):
        (folder / name).mkdir(parents=True)
    annotations = folder / "coco" / "annotations" / "instances_train.json"
    with open(annotations, "w", encoding="utf-8") as file:
        names = [f"{number:06d}.jpg" for number in range(count)]
        listed = [
            {"id": 3 * number + 7, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for number, name in enumerate(names)
        ]
        categories = [{"id": 2 * number + 1, "name": f"c{number}"} for number in range(CLASSES)]
        file.write(
            f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, "annotations": ['
        )
        for number, name in enumerate(names):
            path = folder / "coco" / "train" / name
            # A byte of its own behind the end: no image is another one's copy.
            path.write_bytes(pixels.getvalue() + str(number).encode())
            os.link(path, folder / "yolo" / "train" / "images" / name)
            lines = []
            for index in range(OBJECTS):
                x, y, width, height = (
                    rng.randrange(*ends) for ends in ((0, 500), (0, 380), (10, 130), (10, 90))
                )
                label = rng.randrange(CLASSES)
                entry = {
                    "id": OBJECTS * number + index, "image_id": 3 * number + 7, "category_id": 2 * label + 1,
                    "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
                    "segmentation": [[round(x + width * rng.random(), 2) for _ in range(16)]],
                }  # fmt: skip
                file.write(("" if number == index == 0 else ",\n") + json.dumps(entry))
                shares = (
                    (x + width / 2) / SIZE[0],
                    (y + height / 2) / SIZE[1],
                    width / SIZE[0],
                    height / SIZE[1],
                )
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in shares))
            (folder / "yolo" / "train" / "labels" / name).with_suffix(".txt").write_text("\n".join(lines))
        file.write("]}")
    # Files that may still change within a tick of the clock are not kept in the cache.
    time.sleep(3)


@contextlib.contextmanager
def no_step(step: Any) -> Iterator[Any]:
    yield lambda share: None


def start(root: Path, log_dir: Path, workers: int) -> dict[str, float]:
    """Read the set as a job does, and what that took."""
    from detect.yolov3.task import YOLOv3Task

    logging.disable(logging.WARNING)
    log_dir.mkdir(exist_ok=True)
    dataset = {"data_root": str(root), "train_dir": "train"}
    task = YOLOv3Task(configuration(YOLOv3Config, {"log_dir": str(log_dir), "gpus": [], "dataset": dataset}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with WorkerPool(workers) as pool:
        data = load_datasets(task, no_step, pool, Report(log_dir / "data_report.json"), keep=True)
        seconds = time.monotonic() - began
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "images": len(data.train),
        "seconds": seconds,
        "cpu": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "megabytes": (own.ru_maxrss - before) / 1024,
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", nargs=2, type=Path, metavar=("ROOT", "LOG_DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        root, log_dir = options.start
        print(json.dumps(start(root, log_dir, options.workers)))
        return
    print("| format | images | start | seconds | CPU seconds | memory gained, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for count in (100, options.images):
            folder = Path(temporary) / str(count)
            make(folder, count)
            for kind in ("coco", "yolo"):
                for which in ("first", "second"):
                    command = [sys.executable, __file__, "--workers", str(options.workers), "--start"]
                    words = [*command, str(folder / kind), str(folder / f"log_{kind}")]
                    done = subprocess.run(words, check=True, capture_output=True, text=True)
                    figures = json.loads(done.stdout.splitlines()[-1])
                    print(
                        f"| {kind} | {figures['images']} | {which} | {figures['seconds']:.1f} | {figures['cpu']:.1f} "
                        f"| {figures['megabytes']:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
