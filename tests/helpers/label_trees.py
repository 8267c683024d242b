"""Sets of tiny images as the tools that label them lay them out; for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.formats.base import AnnotatedSet, Place, Record
from common.data.formats.recognise import open_set
from common.images.decoding import probe

SIZE = (80, 40)


def image(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> Path:
    """An image whose pixels depend on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[path.suffix.lower()]
    Image.fromarray(pixels).save(path, kind, **({"exif": exif} if orientation != 1 else {}))
    return path


def images(folder: Path, *names: str) -> None:
    for name in names:
        image(folder / name)


def text(path: Path, content: str | bytes | Any) -> Path:
    """A file; what is neither text nor bytes is written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def coco(
    names: Sequence[str],
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str] | Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A COCO file of images with ids from 1."""
    if isinstance(categories, Mapping):
        categories = [{"id": number, "name": name} for number, name in categories.items()]
    listed = [
        {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
        for number, name in enumerate(names, 1)
    ]
    rows = [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(annotations, 1)]
    return {"images": listed, "annotations": rows, "categories": list(categories)}


def voc(*objects: tuple[Any, ...], filename: str = "a.jpg", size: tuple[int, int] = SIZE) -> str:
    """An XML of objects (name, xmin, ymin, xmax, ymax[, difficult])."""
    parts = [
        f"<object><name>{name}</name><difficult>{rest[0] if rest else 0}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, *rest in objects
    ]
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return (
        f"<annotation>\n<filename>{filename}</filename>\n{stated}\n" + "\n".join(parts) + "\n</annotation>\n"
    )


def labelme(*shapes: Mapping[str, Any], name: str = "a.jpg") -> dict[str, Any]:
    return {
        "version": "5.2.1",
        "flags": {},
        "shapes": [{"group_id": None, "flags": {}, **shape} for shape in shapes],
        "imagePath": name,
        "imageData": None,
        "imageHeight": SIZE[1],
        "imageWidth": SIZE[0],
    }


def opened(
    folder: Path,
    *,
    root: Path | None = None,
    annotations: Path | None = None,
    part: str = "",
    task: str = "detection",
    format_name: str = "auto",
) -> AnnotatedSet:
    """The set in a folder; everything below the folder (or `root`) may be read."""
    place = Place(str(root or folder), str(folder), str(annotations) if annotations else None, part, task)
    return open_set(place, format_name)[0]


def records(found: AnnotatedSet) -> dict[str, Record]:
    """Records by the names of the images."""
    result = {}
    for path, entry in zip(found.images, found.entries, strict=True):
        result[Path(path).name] = found.parse(path, entry, *probe(path))
    return result


def objects(found: AnnotatedSet) -> dict[str, list[tuple[Any, ...]]]:
    """(label, x1, y1, x2, y2) of what counts, by the names of the images."""
    return {
        name: [
            (thing.label, *(thing.box or ()))
            for thing in record.objects
            if not (thing.crowd or thing.difficult)
        ]
        for name, record in records(found).items()
    }
