"""What the formats are written with."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from common.data.formats.base import Object
from common.errors import DataError
from common.images.decoding import printable


@dataclass(frozen=True, slots=True)
class Exported:
    """An image with its objects, whose labels are names of classes. name: its path within the set."""

    path: str
    name: str
    width: int
    height: int
    objects: list[Object]


@dataclass
class Target:
    """Where a set is written, and what of it the format could not hold.

    out: the folder of the whole export. part: train, valid, test, or "" where the export is one set. images: may be
    gone through more than once. lost: how many of what were left out.
    """

    out: Path
    part: str
    task: str
    classes: list[str]
    keypoints: list[str]
    images: Iterable[Exported]
    lost: Counter[str] = field(default_factory=Counter)

    def text(self, name: str) -> IO[str]:
        """A new text file below `out`; folders are made."""
        path = self._new(name)
        return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n")

    def place(self, image: Exported, name: str) -> None:
        """Put an image at a path below `out`: as a hard link where that works, else as a copy."""
        path = self._new(name)
        try:
            source = os.path.realpath(image.path)
            try:
                os.link(source, path)
            except OSError:
                shutil.copyfile(source, path)
        except OSError as error:
            raise DataError(f"{printable(image.path)}: cannot be copied: {error.strerror}") from None

    def _new(self, name: str) -> Path:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise DataError(f"{printable(name)}: two files of the source would have this name")
        return path


def number(value: float) -> str:
    """A coordinate as text: the shortest that is as good as float64, whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def stem(name: str) -> str:
    """A path without its extension."""
    return os.path.splitext(name)[0]
