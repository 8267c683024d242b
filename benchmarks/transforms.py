"""One sample on one core, from a 640x480 JPEG: our detection transforms beside decoding alone and GluonCV's.

    python benchmarks/transforms.py [--image FILE] [--repeats 300]

Every row decodes the same file each time (from the page cache) and makes one sample; GluonCV decodes with
mx.image and leaves out its target generation for YOLOv3 (CenterNet's is part of its transform), and its
samples are normalised floats, ours 8-bit images that the network normalises. Times are CPU time of the
process, all threads, so that a busy machine matters little; rows take turns; medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MXNET_CPU_WORKER_NTHREADS"] = "1"

import cv2
import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.samples import Sample
from detect.transforms import CenterNetTraining, LetterboxEvaluation, StretchEvaluation, YOLOv3Training

BOXES = np.array(
    [[0, 20, 30, 220, 190], [1, 300, 40, 420, 200], [2, 30, 250, 200, 430], [0, 400, 300, 600, 460]],
    np.float32,
)


def made_up(folder: Path) -> Path:
    """A JPEG of 640x480 with about the detail of a photograph."""
    rng = np.random.default_rng(0)
    picture = np.zeros((480, 640, 3))
    for size in (4, 16, 64, 256):
        noise = rng.normal(0, 160 / size**0.5, (480 * size // 480 + 1, 640 * size // 480 + 1, 3))
        picture += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    path = folder / "picture.jpg"
    cv2.imwrite(str(path), np.clip(picture + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path


def ours(transform: Any, sample: Sample, shape: tuple[int, int]) -> Callable[[], None]:
    """A function that makes the next random sample."""
    out = {name: np.empty(size, kind) for name, (size, kind) in transform.layout(shape).items()}
    count = iter(range(1 << 40))

    def run() -> None:
        transform(sample, shape, np.random.default_rng([0, 0, next(count)]), lambda: sample, out)

    return run


def theirs(transform: Any, path: str) -> Callable[[], None]:
    """The same by a transform of GluonCV; waits for what MXNet does behind its back."""
    import mxnet as mx

    label = np.concatenate([BOXES[:, 1:], BOXES[:, :1]], axis=1)

    def run() -> None:
        for value in transform(mx.image.imread(path), label.copy()):
            if isinstance(value, mx.nd.NDArray):
                value.wait_to_read()

    return run


def rows(path: str) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    from gluoncv.data.transforms.presets.center_net import CenterNetDefaultTrainTransform
    from gluoncv.data.transforms.presets.yolo import YOLO3DefaultTrainTransform

    height, width = cv2.imread(path).shape[:2]
    sample = Sample(path, width, height, BOXES * np.array([1, *[width / 640, height / 480] * 2], np.float32))
    return {
        "decode alone (simplejpeg, full size)": lambda: simplejpeg.decode_jpeg(Path(path).read_bytes()),
        "YOLOv3 416 training": ours(YOLOv3Training(4), sample, (416, 416)),
        "YOLOv3 416 training, all mosaics": ours(YOLOv3Training(4, mosaic=1.0), sample, (416, 416)),
        "YOLOv3 416 evaluation": ours(StretchEvaluation(4), sample, (416, 416)),
        "GluonCV YOLOv3 416 training": theirs(YOLO3DefaultTrainTransform(416, 416), path),
        "CenterNet 512 training": ours(CenterNetTraining(4), sample, (512, 512)),
        "CenterNet 512 evaluation": ours(LetterboxEvaluation(4), sample, (512, 512)),
        "GluonCV CenterNet 512 training": theirs(CenterNetDefaultTrainTransform(512, 512, 3), path),
    }


def main() -> None:
    """Measure all rows in turns and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", help="a JPEG to use instead of a made-up one")
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        functions = rows(arguments.image or str(made_up(Path(folder))))
        times: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(arguments.repeats + 10):
            for name, function in functions.items():
                start = time.process_time()
                function()
                if turn >= 10:
                    times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    decoding = medians["decode alone (simplejpeg, full size)"]
    print(f"CPU time on one core, medians of {arguments.repeats}")
    print(f"{'':<38} {'ms':>7} {'x decode':>9}")
    for name, value in medians.items():
        print(f"{name:<38} {value:>7.2f} {value / decoding:>9.1f}")
    for kind in ("YOLOv3 416", "CenterNet 512"):
        ratio = medians[f"GluonCV {kind} training"] / medians[f"{kind} training"]
        print(f"{kind}: GluonCV / ours = {ratio:.1f}")


if __name__ == "__main__":
    main()
