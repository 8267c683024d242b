"""CSV of classes: `image,class` a line under a header; written, not read."""

from __future__ import annotations

import csv
import os

from common.data.formats.writing import Target

TASKS = ("classification", "reid")


def write(target: Target) -> None:
    """SET/ with the images, and SET.csv."""
    with target.text(f"{target.part or 'labels'}.csv") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "class"])
        for image in target.images:
            name = os.path.join(target.part or "images", image.name)
            labels = sorted({str(thing.label) for thing in image.objects})
            if len(labels) != 1:
                target.lost["images without a class or with several"] += 1
                continue
            if any(thing.box is not None for thing in image.objects):
                target.lost["images whose boxes are not written"] += 1
            target.place(image, name)
            table.writerow([name, labels[0]])
