"""How long a device waits for the host between two steps, shown without a device.

    python benchmarks/waiting.py [--compute 25] [--steps 20]

An engine sleeps as long as a fast GPU would compute (--compute, in ms, from the moment that a step begins), and copies
what it takes into memory of its own, as a copy to pinned memory does. The batches are made beforehand, with the targets
that the loader's workers make of boxes: images of a set of 80 classes with 7 objects on average. A row says how many
milliseconds the host computes for a step, and how many of them lie between the end of a step and the beginning of the
next one, where the device waits for it (CPU time, which a busy machine hardly changes), which bytes a batch has, and
how long the workers take for the targets of an image.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.devices import load_mxnet
from common.loading.loader import Batch
from common.task import Model
from tests.helpers.engines import StatelessEngine

CLASSES = [f"class{number}" for number in range(80)]
# Input size, images of a batch, most objects of an image of the set.
CASES = {
    "CenterNet 512 px": ("center_net", 512, 16, 93),
    "YOLOv3 416 px, mosaics": ("yolov3", 416, 64, 372),
    "SSD 300 px": ("ssd", 300, 64, 93),
}


class Sleeping(StatelessEngine):
    """Takes its time. waits: CPU seconds of the host between the end of a step and the beginning of the next one."""

    def __init__(self, seconds: float, losses: int) -> None:
        self.waits: list[float] = []
        self._seconds, self._losses = seconds, losses
        self._ready = 0.0
        self._ended: float | None = None
        self._pinned: dict[int, np.ndarray] = {}

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        for place, array in enumerate((*split, *shared)):
            if place not in self._pinned or self._pinned[place].shape != array.shape:
                self._pinned[place] = np.empty(array.shape, array.dtype)
            np.copyto(self._pinned[place], array)

    def forward(self) -> None:
        if self._ended is not None:
            self.waits.append(time.thread_time() - self._ended)
        self._ready = time.perf_counter() + self._seconds

    def backward(self) -> None:
        pass

    def norms(self) -> np.ndarray:
        left = self._ready - time.perf_counter()
        self._ended = time.thread_time() + min(left, 0.0)  # what came too late counts
        time.sleep(max(left, 0.0))
        return np.ones(1)

    def losses(self) -> np.ndarray:
        return np.ones(self._losses)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        pass

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return []


class Given:
    """Serves one batch again and again."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self._batch, self._steps = batch, steps

    def epoch(self, number: int) -> Iterator[Batch]:
        for _ in range(self._steps):
            yield self._batch


def model_of(kind: str, side: int) -> Model:
    """A model that makes and takes targets."""
    network: Any = None
    if kind == "center_net":
        from detect.center_net.task import CenterNetModel
        from detect.config import CenterNetModelConfig

        section = CenterNetModelConfig(base_network="resnet18_v1b")
        return CenterNetModel(network, section, CLASSES, flip_test=False, on_cpu=True)
    if kind == "yolov3":
        from detect.config import YOLOv3ModelConfig
        from detect.yolov3.task import YOLOv3Model

        return YOLOv3Model(network, YOLOv3ModelConfig(), CLASSES)
    import mxnet as mx

    from detect.config import SSDConfig
    from detect.ssd.task import SSDTask

    keys = {"model": {"data_shape": [side, side]}, "train": {"pretrained_base": False}}
    task = SSDTask(configuration(SSDConfig, {"log_dir": "unused", "gpus": [], **keys}))
    return task.build(CLASSES, [mx.cpu()], None)


def batch_of(model: Model, side: int, rows: int, most: int) -> tuple[Batch, float]:
    """A batch as the loader has it, and the seconds that the targets of an image take."""
    rng = np.random.default_rng(0)
    boxes = np.full((rows, most, 5), -1, np.float32)
    for row in boxes:
        count = min(1 + rng.poisson(6), most)
        low = rng.uniform(0, side * 0.8, (count, 2))
        high = np.minimum(low + rng.uniform(8, side * 0.5, (count, 2)), side)
        row[:count] = np.column_stack([low, high, rng.integers(0, len(CLASSES), count)])
    samples = [Sample("x.jpg", side, side, np.column_stack([row[:, 4], row[:, :4]])) for row in boxes]
    arrays: dict[str, np.ndarray] = {"image": np.zeros((rows, side, side, 3), np.uint8), "boxes": boxes}
    targets = model.targets(samples)
    assert targets is not None
    layout = {name: (array.shape[1:], array.dtype.str) for name, array in arrays.items()}
    for name, (shape, dtype) in targets.layout((side, side), layout).items():
        arrays[name] = np.zeros((rows, *shape), dtype)
    for _ in range(2):  # the second time for the clock
        began = time.perf_counter()
        for row in range(rows):
            targets((side, side), {name: array[row] for name, array in arrays.items()})
    seconds = (time.perf_counter() - began) / rows
    return Batch(arrays, np.arange(rows), rows, (side, side)), seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compute", type=float, default=25.0, help="milliseconds of a step on the device")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    load_mxnet(1)
    from common.training.estimator import Estimator, TrainingState

    print(
        "| detector, 80 classes | batch | the host computes, ms a step | the device waits, ms | MB a batch, of images "
        "| targets of an image, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for title, (kind, side, rows, most) in CASES.items():
        model = model_of(kind, side)
        batch, seconds = batch_of(model, side, rows, most)
        engine, loader = Sleeping(options.compute / 1e3, len(model.losses)), Given(batch, options.steps)
        state = TrainingState(epochs=1, steps=options.steps)
        began = time.thread_time()
        Estimator(model, engine).fit(loader, lambda step: 0.1, [], state)  # type: ignore[arg-type]
        took = (time.thread_time() - began) / options.steps * 1e3
        inputs = model.training_inputs(batch)
        size = sum(array.nbytes for array in (*inputs.split, *inputs.shared)) / 1e6
        print(
            f"| {title} | {rows} | {took:.1f} | {np.median(engine.waits) * 1e3:.1f} "
            f"| {size:.0f}, {batch.arrays['image'].nbytes / 1e6:.0f} | {seconds * 1e3:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
