"""Training YOLOv3 here and with GluonCV's own loader and network: images per second and peak memory.

    python benchmarks/training.py [--data FOLDER] [--size 256] [--batch 8] [--steps 12] [--repeats 3]

Each side is a process of its own that runs the same images, input size, batch size and number of workers, in turn, so
that a busy machine slows both; the medians of the repeats are compared. The time is that of whole steps (loading,
forward, backward, update), the first two left out. FOLDER holds detect_train; the shipped set is the default.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
WARM_UP = 2


def ours(options: argparse.Namespace, precision: str) -> Iterator[None]:
    """Steps of this project's estimator."""
    from common.workers import WorkerPool

    pool = WorkerPool(options.workers)
    import mxnet as mx

    from common.config import configuration
    from common.estimator import Estimator
    from common.loader import Loader
    from common.samples import read_folder
    from detect.config import YOLOv3Config
    from detect.yolov3 import YOLOv3Task

    config = {
        "log_dir": "unused",
        "gpus": [],
        "dataset": {"data_root": str(options.data)},
        "model": {
            "base_network": options.network,
            "use_pretrained": False,
            "data_shape": [options.size, options.size],
        },
        "train": {"no_random_shape": True},
    }
    task = YOLOv3Task(configuration(YOLOv3Config, config))
    folder = options.data / "detect_train"
    samples, _ = read_folder(folder, task.annotations(folder), pool, lambda share: None)
    classes = task.classes(folder, [samples])
    model = task.build(classes, [mx.cpu()], None)
    estimator = Estimator(model, [mx.cpu()], task.optimizer(), precision=precision)
    loader = Loader(
        samples,
        task.training_transform(samples),
        pool,
        batch_size=options.batch,
        shapes=task.training_shapes(),
        training=True,
    )
    for epoch in range(10**6):
        for batch in loader.epoch(epoch):
            estimator.step(batch, 1e-4)
            yield


def gluoncv(options: argparse.Namespace) -> Iterator[None]:
    """Steps as GluonCV's train_yolo3 script does them: its transform, target generation, network and loss."""
    import mxnet as mx
    import numpy as np
    from gluoncv.data.batchify import Pad, Stack, Tuple
    from gluoncv.data.transforms.presets.yolo import YOLO3DefaultTrainTransform
    from gluoncv.model_zoo import get_model
    from mxnet import autograd, gluon

    class Folder(gluon.data.Dataset):
        def __init__(self) -> None:
            self.images = sorted((options.data / "detect_train").glob("*.jpg"))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Any:
            path = self.images[index]
            rows = [line.split(",") for line in path.with_suffix(".txt").read_text().split()]
            boxes = np.array([[*map(float, row[1:]), float(row[0])] for row in rows], np.float32)
            return mx.image.imread(str(path)), boxes

    dataset = Folder()
    count = 1 + int(max(dataset[i][1][:, 4].max() for i in range(len(dataset))))
    names = [f"class{i}" for i in range(count)]
    network = get_model(f"yolo3_{options.network}_custom", classes=names, pretrained_base=False)
    network.initialize()
    twin = get_model(f"yolo3_{options.network}_custom", classes=names, pretrained_base=False)
    twin.initialize()
    transform = YOLO3DefaultTrainTransform(options.size, options.size, twin)
    loader = gluon.data.DataLoader(
        dataset.transform(transform),
        options.batch,
        True,
        batchify_fn=Tuple(*([Stack() for _ in range(6)] + [Pad(axis=0, pad_val=-1)])),
        last_batch="rollover",
        num_workers=options.workers,
    )
    trainer = gluon.Trainer(
        network.collect_params(), "sgd", {"learning_rate": 1e-5, "momentum": 0.9, "wd": 1e-4}, kvstore=None
    )
    network.hybridize()
    while True:
        for batch in loader:
            arrays = [array.as_in_context(mx.cpu()) for array in batch]
            with autograd.record():
                losses = network(arrays[0], arrays[6], *arrays[1:6])
                total = sum(losses)
            total.backward()
            trainer.step(options.batch)
            total.mean().asscalar()
            yield


def measure(options: argparse.Namespace) -> None:
    """Run one side and print its figures as JSON."""
    steps = gluoncv(options) if options.side == "gluoncv" else ours(options, options.side)
    for _ in range(WARM_UP):
        next(steps)
    began = time.perf_counter()
    for _ in range(options.steps):
        next(steps)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rate": options.steps * options.batch / seconds, "peak": peak}), flush=True)
    os._exit(0)  # workers of either side need not be waited for


def main() -> None:
    """Run the sides in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "tests" / "data" / "blood_cells")
    parser.add_argument("--network", default="mobilenet1.0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("float32", "bfloat16", "gluoncv"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options)
        return
    from common.devices import bfloat16_supported, use_all_cores

    use_all_cores()  # both sides: MXNet alone takes half of the processors
    sides = ["gluoncv", "float32", *(["bfloat16"] if bfloat16_supported() else [])]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            done = subprocess.run(
                [sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True
            )
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'side':<10} {'images/s':>9} {'ratio':>6} {'peak MB':>8} {'ratio':>6}")
    middle = {
        side: [statistics.median(run[key] for run in found[side]) for key in ("rate", "peak")]
        for side in sides
    }
    for side, (rate, peak) in middle.items():
        base_rate, base_peak = middle["gluoncv"]
        print(f"{side:<10} {rate:9.2f} {rate / base_rate:6.2f} {peak:8.0f} {peak / base_peak:6.2f}")


if __name__ == "__main__":
    main()
