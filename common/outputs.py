"""What `common.predict` writes when all images have had their turn, and keeps on disk until then."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.data.formats.base import Object
from common.data.formats.writing import Exported
from common.data.samples import Sample
from common.inputs import relative_name


class Labels:
    """Rows of a result as images with objects, which the writers of formats go through.

    classes: names that occur. points: the most keypoints of an image.
    """

    def __init__(self, spool: IO[bytes], labels: Callable[[dict[str, Any]], list[Object]], base: str) -> None:
        """spool: an empty file for the rows. labels: a row as objects. base: the folder that names leave out."""
        self.classes: set[str] = set()
        self.points = 0
        self._spool = spool
        self._labels = labels
        self._base = base
        self._stems: set[str] = set()
        self._last = ""

    def add(self, sample: Sample, row: dict[str, Any]) -> None:
        """Take a row. Those of one image, of which each is a box, come one after the other."""
        for thing in self._labels(row):
            self.classes.add(str(thing.label))
            self.points = max(self.points, len(thing.points))
        name = "" if sample.image == self._last else self._name(sample.image)
        self._last = sample.image
        self._spool.write(_line([name, sample.image, sample.width, sample.height, row]))

    def __iter__(self) -> Iterator[Exported]:
        self._spool.seek(0)
        image: Exported | None = None
        for line in self._spool:
            name, path, width, height, row = json.loads(line)
            if name:
                if image is not None:
                    yield image
                image = Exported(path, name, width, height, [])
            assert image is not None
            image.objects.extend(self._labels(row))
        if image is not None:
            yield image

    def _name(self, image: str) -> str:
        # The text beside 1.jpg would be that beside 1.png.
        stem, extension = os.path.splitext(relative_name(image, self._base))
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in self._stems)
        self._stems.add(name)
        return name + extension


class Embeddings:
    """Embeddings and the paths of their images."""

    def __init__(self, vectors: IO[bytes], paths: IO[bytes]) -> None:
        """vectors, paths: empty files."""
        self._vectors = vectors
        self._paths = paths
        self._count = self._numbers = self._longest = 0

    def add(self, image: str, embedding: np.ndarray) -> None:
        """Take an embedding (D,)."""
        self._vectors.write(embedding.astype("<f4").tobytes())
        self._paths.write(_line(image))
        self._count, self._numbers = self._count + 1, len(embedding)
        self._longest = max(self._longest, len(image))

    def save(self, path: Path) -> None:
        """Write what `numpy.savez` writes of arrays in memory: embeddings (N, D), float32, and images (N,)."""
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as file:
                _begin_array(file, "<f4", (self._count, self._numbers))
                self._vectors.seek(0)
                shutil.copyfileobj(self._vectors, file)
            with archive.open("images.npy", "w", force_zip64=True) as file:
                _begin_array(file, f"<U{self._longest}", (self._count,))
                self._paths.seek(0)
                for line in self._paths:
                    file.write(np.array(json.loads(line), f"<U{self._longest}").tobytes())


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _begin_array(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
