"""One sample on one core, from a 640x480 JPEG: our transforms beside decoding alone and GluonCV's.

    python benchmarks/transforms.py [--image FILE] [--repeats 200]

Every row decodes the same file each time (from the page cache) and makes one sample; GluonCV decodes with
mx.image and leaves out its target generation for YOLOv3 (CenterNet's is part of its transform), and its
samples are normalised floats, ours 8-bit images that the network normalises. GluonCV regresses no landmarks:
beside ours stands its transform for poses of as many points, with the heat maps that are its targets. Times
are CPU time of the process, all threads, so that a busy machine matters little; rows take turns; medians.
"""

from __future__ import annotations

import os
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
from benchmarks import table
from classification.transforms import CENTRE, CropTransform
from common.data.samples import Sample
from common.images.resize import Resize
from common.predictor import EvaluationTransform
from common.predictor import whole as all_of
from detect.ssd.anchors import anchor_boxes, corners, levels
from detect.ssd.targets import SSDTargets
from detect.transforms import CenterNetTraining, YOLOv3Training
from landmark.transforms import LandmarkTransform

BOXES = np.array(
    [[0, 20, 30, 220, 190], [1, 300, 40, 420, 200], [2, 30, 250, 200, 430], [0, 400, 300, 600, 460]],
    np.float32,
)

POINTS = np.random.default_rng(0).uniform((150, 100), (450, 380), (68, 2)).astype(np.float32)


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
    """A function that makes the next random sample of ours."""
    out = {name: np.empty(size, kind) for name, (size, kind) in transform.layout(shape).items()}
    count = iter(range(1 << 40))

    def run() -> None:
        transform(sample, shape, np.random.default_rng([0, 0, next(count)]), lambda: sample, out)

    return run


def ssd(sample: Sample, network: str, mosaic: float = 0.0) -> Callable[[], None]:
    """As `ours` for SSD, with the targets, as workers make both."""
    shape = (300, 300)
    transform = YOLOv3Training(4, mosaic=mosaic)
    anchors = anchor_boxes(levels(network, 300, "voc"), shape)
    targets = SSDTargets(anchors, corners(anchors), np.ones(len(anchors), bool), offsets=True)
    layout = dict(transform.layout(shape))
    layout |= targets.layout(shape, layout)
    out = {name: np.empty(size, kind) for name, (size, kind) in layout.items()}
    count = iter(range(1 << 40))

    def run() -> None:
        transform(sample, shape, np.random.default_rng([0, 0, next(count)]), lambda: sample, out)
        targets(shape, out)

    return run


def waiting(make: Callable[[], Any]) -> Callable[[], None]:
    """A function that makes a sample by MXNet, and waits for what that does behind its back."""
    import mxnet as mx

    def run() -> None:
        made = make()
        for value in made if isinstance(made, tuple) else (made,):
            if isinstance(value, mx.nd.NDArray):
                value.wait_to_read()

    return run


def gluoncv_rows(path: str) -> dict[str, Callable[[], object]]:
    """GluonCV's training transforms, by the names that ours have."""
    import mxnet as mx
    from gluoncv.data.transforms.presets.center_net import CenterNetDefaultTrainTransform
    from gluoncv.data.transforms.presets.simple_pose import SimplePoseDefaultTrainTransform
    from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform
    from gluoncv.data.transforms.presets.yolo import YOLO3DefaultTrainTransform
    from mxnet.gluon.data.vision import transforms

    boxes = np.concatenate([BOXES[:, 1:], BOXES[:, :1]], axis=1)
    yolo, centre = YOLO3DefaultTrainTransform(416, 416), CenterNetDefaultTrainTransform(512, 512, 3)
    anchors = mx.nd.array(anchor_boxes(levels("mobilenet1.0", 300, "voc"), (300, 300))[None])
    single_shot = SSDDefaultTrainTransform(300, 300, anchors)
    # As GluonCV's script for ImageNet composes it.
    crop = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.25, 1.0)),
            transforms.RandomFlipLeftRight(),
            transforms.RandomColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomLighting(0.1),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pose = SimplePoseDefaultTrainTransform(len(POINTS), [], (224, 224), (56, 56), random_flip=False)

    def posed() -> Any:
        joints = np.stack([np.pad(POINTS, ((0, 0), (0, 1))), np.ones((len(POINTS), 3), np.float32)], axis=-1)
        return pose(mx.image.imread(path), {"bbox": (0, 0, 640, 480), "joints_3d": joints}, path)

    return {
        "YOLOv3 416 training": waiting(lambda: yolo(mx.image.imread(path), boxes.copy())),
        "SSD 300 training with targets": waiting(lambda: single_shot(mx.image.imread(path), boxes.copy())),
        "CenterNet 512 training": waiting(lambda: centre(mx.image.imread(path), boxes.copy())),
        "classification 224 training": waiting(lambda: crop(mx.image.imread(path))),
        "landmark 224 training": waiting(posed),
    }


def our_rows(path: str) -> dict[str, Callable[[], object]]:
    """Our transforms, by name."""
    height, width = cv2.imread(path).shape[:2]
    scale = np.array([width / 640, height / 480], np.float32)
    sample = Sample(path, width, height, BOXES * np.array([1, *scale, *scale], np.float32))
    whole = Sample(path, width, height, np.array([0], np.float32))
    face = Sample(path, width, height, POINTS * scale)
    return {
        "YOLOv3 416 training": ours(YOLOv3Training(4), sample, (416, 416)),
        "YOLOv3 416 training, all mosaics": ours(YOLOv3Training(4, mosaic=1.0), sample, (416, 416)),
        "YOLOv3 416 evaluation": ours(EvaluationTransform(Resize("stretch"), all_of), sample, (416, 416)),
        "SSD 300 training with targets": ssd(sample, "mobilenet1.0"),
        "SSD 300 training with targets, mobilenetv2_1.0_lite's anchors": ssd(sample, "mobilenetv2_1.0_lite"),
        "SSD 300 training with targets, all mosaics": ssd(sample, "mobilenet1.0", 1.0),
        "CenterNet 512 training": ours(CenterNetTraining(4), sample, (512, 512)),
        "CenterNet 512 evaluation": ours(
            EvaluationTransform(Resize("letterbox"), all_of), sample, (512, 512)
        ),
        "classification 224 training": ours(CropTransform(), whole, (224, 224)),
        "classification 224 evaluation": ours(
            EvaluationTransform(Resize("centre_crop", CENTRE), all_of), whole, (224, 224)
        ),
        "landmark 224 training": ours(LandmarkTransform(len(POINTS)), face, (224, 224)),
    }


def main() -> None:
    """Measure all in turns and print one table."""
    parser = table.parser(__doc__)
    parser.add_argument("--image", help="a JPEG to use instead of a made-up one")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    repeats = 3 if options.quick else options.repeats
    cv2.setNumThreads(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = options.image or str(made_up(Path(folder)))
        mine, peers = our_rows(path), gluoncv_rows(path)
        functions = {
            ("", ""): lambda: simplejpeg.decode_jpeg(Path(path).read_bytes()),
            **{("ours", name): function for name, function in mine.items()},
            **{("gluoncv", name): function for name, function in peers.items()},
        }
        times: dict[tuple[str, str], list[float]] = {key: [] for key in functions}
        for turn in range(repeats + 3):
            for key, function in functions.items():
                start = time.process_time()
                function()
                if turn >= 3:
                    times[key].append((time.process_time() - start) * 1e3)
    rows = []
    for name in mine:
        theirs = times.get(("gluoncv", name))
        aim = (
            "at most 3 ms"
            if "SSD" in name
            else ""
            if not theirs
            else "3x; 3x limit"
            if "classification" in name
            else "3x limit"
            if "landmark" in name
            else "8x; 3x limit"
        )
        rows.append(
            table.compare(
                f"{name} sample, 640x480 JPEG, 1 core, CPU ms",
                times["ours", name],
                "GluonCV transform + decode" if theirs else "",
                theirs,
                limit="libjpeg-turbo decode alone",
                bounds=times["", ""],
                reach=aim,
            )
        )
    table.report(rows, options)


if __name__ == "__main__":
    main()
