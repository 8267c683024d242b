"""Read labels with an independent reader: python read.py FORMAT FILE_OR_FOLDER [IMAGES]

Runs in an environment of its own. Prints {image: [[class, x1, y1, x2, y2], ...]} as JSON, coordinates as the reader
gives them.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

Found = dict[str, list[list[Any]]]


def pycocotools_reader(path: str) -> Found:
    """COCO."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(path)
    found: Found = {image["file_name"]: [] for image in annotations.imgs.values()}
    for row in annotations.anns.values():
        if row["iscrowd"]:
            continue
        x, y, width, height = row["bbox"]
        name = annotations.cats[row["category_id"]]["name"]
        found[annotations.imgs[row["image_id"]]["file_name"]].append([name, x, y, x + width, y + height])
    return found


def globox_reader(kind: str, path: str, images: str | None) -> Found:
    """All other formats, and COCO as well."""
    from globox import AnnotationSet

    if kind == "yolo":
        annotations = AnnotationSet.from_yolo_v5(path, image_folder=images)
    else:
        annotations = getattr(AnnotationSet, f"from_{kind}")(path)
    return {
        annotation.image_id: [[box.label, box.xmin, box.ymin, box.xmax, box.ymax] for box in annotation.boxes]
        for annotation in annotations
    }


if __name__ == "__main__":
    kind, path, *rest = sys.argv[1:]
    result = (
        pycocotools_reader(path) if kind == "pycocotools" else globox_reader(kind, path, *(rest or [None]))
    )
    print(json.dumps(result))
