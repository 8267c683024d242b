"""Mean average precision of 5,000 images with 100 detections each: ours beside GluonCV's VOCMApMetric.

    python benchmarks/metric.py [--images 5000] [--detections 100] [--repeats 3]

Both get the same boxes in one process; the times (CPU) hold all updates and the result. GluonCV adds a pixel
to each width and height, so its boxes are given one pixel shorter and both must come to the same values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from detect.metric import MeanAveragePrecision

Images = list[tuple[np.ndarray, np.ndarray]]


def made_up(images: int, detections: int, classes: int, seed: int = 0) -> Images:
    """Ground truth (n, 5) and detections (m, 6) of images: 1 to 14 objects, most detections near one."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        count = int(rng.integers(1, 15))
        low = rng.uniform(0, 500, (count, 2))
        truth = np.column_stack(
            [rng.integers(0, classes, count), low, low + rng.uniform(20, 140, (count, 2))]
        )
        source = truth[rng.integers(0, count, detections)]
        boxes = source[:, 1:] + rng.normal(0, 12, (detections, 4))
        ids = np.where(rng.random(detections) < 0.8, source[:, 0], rng.integers(0, classes, detections))
        pairs.append((truth, np.column_stack([ids, rng.random(detections), boxes])))
    return pairs


def ours(pairs: Images, classes: int) -> list[float]:
    """AP of each class and the mean."""
    metric = MeanAveragePrecision(classes)
    for truth, detections in pairs:
        metric.update(truth, detections)
    average_precision, mean = metric.result()
    return [*average_precision.tolist(), mean]


def gluoncv(pairs: Images, classes: int) -> list[float]:
    """The same by GluonCV."""
    from gluoncv.utils.metrics.voc_detection import VOCMApMetric

    metric = VOCMApMetric(0.5, [f"class{index}" for index in range(classes)])
    for truth, found in pairs:
        metric.update(
            found[None, :, 2:] - [0, 0, 1, 1],
            found[None, :, 0],
            found[None, :, 1],
            truth[None, :, 1:] - [0, 0, 1, 1],
            truth[None, :, 0],
        )
    return list(metric.get()[1])


def timed(
    function: Callable[[Images, int], list[float]], pairs: Images, classes: int
) -> tuple[float, list[float]]:
    """Seconds and the values."""
    start = time.process_time()
    values = function(pairs, classes)
    return time.process_time() - start, values


def main() -> None:
    """Run both in turns and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    gluoncv(made_up(1, 1, 1), 1)  # imports what it needs
    print(f"{arguments.images} images, {arguments.detections} detections each, median of {arguments.repeats}")
    print(f"{'classes':>8} {'ours, s':>9} {'GluonCV, s':>11} {'ratio':>7} {'greatest difference':>20}")
    for classes in (4, 20, 80):
        pairs = made_up(arguments.images, arguments.detections, classes)
        seconds: dict[str, list[float]] = {"ours": [], "gluoncv": []}
        for _ in range(arguments.repeats):
            spent, mine = timed(ours, pairs, classes)
            seconds["ours"].append(spent)
            spent, theirs = timed(gluoncv, pairs, classes)
            seconds["gluoncv"].append(spent)
        mine_median, their_median = (statistics.median(values) for values in seconds.values())
        difference = np.abs(np.array(mine) - np.array(theirs)).max()
        print(
            f"{classes:>8} {mine_median:>9.3f} {their_median:>11.2f}"
            f" {their_median / mine_median:>7.1f} {difference:>20.1e}"
        )


if __name__ == "__main__":
    main()
