"""Mean average precision of 5,000 images with 100 detections each: ours beside GluonCV's VOCMApMetric and pycocotools.

    python benchmarks/metric.py [--images 5000] [--detections 100] [--repeats 3]

All get the same boxes; the times (CPU) hold all updates and the result. GluonCV adds a pixel to each width and
height, so its boxes are given one pixel shorter and both must come to the same values. pycocotools averages precision
at 101 places instead of taking the area under the curve, so that its value is a little different.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import table
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
    for truth, detections in pairs:
        metric.update(
            detections[None, :, 2:] - [0, 0, 1, 1],
            detections[None, :, 0],
            detections[None, :, 1],
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


def pycocotools(pairs: Images, classes: int, folder: Path) -> tuple[float, float]:
    """CPU seconds and mean AP of pycocotools, in the peers' environment."""
    rows = [[(number, *row) for row in truth] for number, (truth, _) in enumerate(pairs)]
    detected = [[(number, *row) for row in detections] for number, (_, detections) in enumerate(pairs)]
    path = folder / "boxes.npz"
    np.savez(
        path,
        truth=np.concatenate(rows),
        detected=np.concatenate(detected),
        images=len(pairs),
        classes=classes,
    )
    figures = table.side("torch_side.py", "coco", "--data", path, python=table.PEERS)
    return figures["seconds"], figures["mean"]


def main() -> None:
    """Run all in turns and print the medians."""
    parser = table.parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.repeats = 100, 1
    gluoncv(made_up(1, 1, 1), 1)  # imports what it needs
    rows = []
    for classes in (4, 80):
        pairs = made_up(arguments.images, arguments.detections, classes)
        seconds: dict[str, list[float]] = {"ours": [], "gluoncv": [], "coco": []}
        coco_mean = None
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(arguments.repeats):
                spent, mine = timed(ours, pairs, classes)
                seconds["ours"].append(spent)
                spent, theirs = timed(gluoncv, pairs, classes)
                seconds["gluoncv"].append(spent)
                if table.peers_installed():
                    spent, coco_mean = pycocotools(pairs, classes, Path(folder))
                    seconds["coco"].append(spent)
        difference = np.abs(np.array(mine) - np.array(theirs)).max()
        what = (
            f"mAP of {arguments.images} images x {arguments.detections} detections, {classes} classes, CPU s"
        )
        peer = f"GluonCV VOCMApMetric (greatest difference {difference:.0e})"
        rows.append(table.compare(what, seconds["ours"], peer, seconds["gluoncv"], reach="10x"))
        peer = (
            table.NO_PEERS if coco_mean is None else f"pycocotools (mAP {coco_mean:.4f}, ours {mine[-1]:.4f})"
        )
        rows.append(table.compare(what, seconds["ours"], peer, seconds["coco"], reach="ahead"))
    table.report(rows, arguments)


if __name__ == "__main__":
    main()
