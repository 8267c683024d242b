"""PyTorch's and pycocotools' sides of loader.py, training.py and metric.py, run by them in the peers' environment.

    .venv-peers/bin/python benchmarks/torch_side.py --side load|train|coco ...

Imports nothing of this project but the table: the two environments have no NumPy in common.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import table


@functools.cache
def torchvision() -> Any:
    """torchvision, also where its compiled operators were built for another PyTorch (the CPU's): models and transforms
    need none of them, but importing declares two, which therefore must exist."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import torchvision

    return torchvision


def dataset(folder: Path, size: int) -> Any:
    """Class folders with the transform that torchvision's reference script takes, and its colours."""
    vision = torchvision()
    transforms = vision.transforms
    return vision.datasets.ImageFolder(
        str(folder),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.25, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.4, 0.4, 0.4),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        ),
    )


def loader(options: argparse.Namespace) -> Any:
    """Batches of `dataset`, as PyTorch's documentation advises (workers persist)."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset(options.data, options.size),
        options.batch,
        shuffle=True,
        drop_last=False,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of a first and a second epoch; the first holds the start of the workers."""
    batches = loader(options)
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        count = sum(len(labels) for _, labels in batches)
        rates.append(count / (time.perf_counter() - began))
    return {"rates": rates}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of whole steps: loading, forward, backward, SGD with momentum."""
    import torch

    models = torchvision().models
    name = {"resnet18_v1": "resnet18", "mobilenetv2_1.0": "mobilenet_v2"}[options.network]
    torch.manual_seed(0)
    torch.set_num_threads(1 if options.cpu else len(os.sched_getaffinity(0)))
    clock = table.cpu_seconds if options.cpu else time.perf_counter
    network = models.get_model(name, num_classes=2).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss()
    batches = loader(options)
    steps, began = 0, 0.0
    while True:
        for images, labels in batches:
            if len(labels) < options.batch:
                continue
            images = images.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            steps += 1
            if steps == options.warm_up:
                began = clock()
            if steps == options.warm_up + options.steps:
                return {"rate": options.steps * options.batch / (clock() - began)}


def coco(options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds from boxes to AP at an overlap of 0.5, areas of all sizes."""
    import contextlib
    import io

    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    stored = np.load(options.data)
    truth, detected, classes = (
        stored["truth"],
        stored["detected"],
        int(stored["classes"]),
    )  # image, id, box / score
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = truth[:, 2:6].copy()
        boxes[:, 2:] -= boxes[:, :2]
        reference = COCO()
        reference.dataset = {
            "images": [{"id": i} for i in range(int(stored["images"]))],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": [
                {
                    "id": number,
                    "image_id": int(row[0]),
                    "category_id": int(row[1]),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for number, (row, box) in enumerate(zip(truth, boxes.tolist(), strict=True), start=1)
            ],
        }
        reference.createIndex()
        results = detected[:, [0, 3, 4, 5, 6, 2, 1]].copy()
        results[:, 3:5] -= results[:, 1:3]
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 0]
    return {"seconds": time.process_time() - began, "mean": float(precision[precision > -1].mean())}


def main() -> None:
    """Measure the side that is asked for and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", choices=("load", "train", "coco"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="resnet18_v1")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--warm-up", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps({"load": load, "train": train, "coco": coco}[options.side](options)), flush=True)
    os._exit(0)  # workers need not be waited for


if __name__ == "__main__":
    main()
