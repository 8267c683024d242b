"""COCO's figures of random boxes by pycocotools; run by a Python that has it, as it cannot live beside MXNet's NumPy.

Reads {"classes": n, "images": [{"truth": …, "crowd": …, "areas": …, "detections": …}]} from standard input, its rows as
detect.coco_metric takes them; writes {"figures": […], "seconds": s} to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from typing import Any


def figures(classes: int, images: list[dict[str, Any]]) -> tuple[list[float], float]:
    """The twelve figures, -1 for those that the set does not allow, and the seconds of their computation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, detections = [], []
    for number, image in enumerate(images):
        for row, crowd, area in zip(image["truth"], image["crowd"], image["areas"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(row[0]),
                    "bbox": [row[1], row[2], row[3] - row[1], row[4] - row[2]],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for row in image["detections"]:
            detections.append(
                {
                    "image_id": number,
                    "category_id": int(row[0]),
                    "bbox": [row[2], row[3], row[4] - row[2], row[5] - row[3]],
                    "score": row[1],
                }
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number, "width": 640, "height": 640} for number in range(len(images))],
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
        "annotations": annotations,
    }
    truth.createIndex()
    found = truth.loadRes(detections) if detections else COCO()
    if not detections:
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    began = time.perf_counter()
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist(), time.perf_counter() - began


if __name__ == "__main__":
    sets = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):
        answers = [figures(entry["classes"], entry["images"]) for entry in sets]
    json.dump([{"figures": values, "seconds": seconds} for values, seconds in answers], sys.stdout)
