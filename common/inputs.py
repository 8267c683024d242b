"""What is to be predicted: images, folders, patterns and videos, and how workers make inputs of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.data.problems import IMAGE_EXTENSIONS
from common.data.samples import Sample
from common.errors import ConfigurationError, DataError
from common.images.decoding import decode, printable
from common.images.resize import Region, Resize
from common.loading.loader import Layout, Shape

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")


@dataclass(frozen=True)
class Inputs:
    """Files in the order in which they were given, those of a folder or pattern by their paths; each once.

    base: the folder that all of them lie in, which names of pictures and labels leave out.
    """

    images: list[str]
    videos: list[str]
    base: str


def find_inputs(words: Sequence[str]) -> Inputs:
    """The files that words of a command line mean. Raises ConfigurationError for one that means none."""
    files: dict[str, None] = {}
    for word in words:
        paths = list(_files_of(word))
        if not paths:
            raise ConfigurationError(
                f"IMAGES: {printable(word)}: no image or video there; images end in {' '.join(IMAGE_EXTENSIONS)}"
            )
        files.update(dict.fromkeys(paths))
    images = [path for path in files if not _is_video(path)]
    videos = [path for path in files if _is_video(path)]
    folders = {os.path.dirname(os.path.abspath(path)) for path in files}
    return Inputs(images, videos, os.path.commonpath(folders))


def _files_of(word: str) -> Iterator[str]:
    if os.path.isdir(word):
        for folder, folders, names in os.walk(word):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and name.lower().endswith((*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)):
                    yield os.path.join(folder, name)
    elif os.path.lexists(word):
        yield word  # the content decides what it is
    elif glob.has_magic(word):
        for path in sorted(glob.glob(word, recursive=True)):
            yield from _files_of(path)
    else:
        raise ConfigurationError(f"IMAGES: {printable(word)} does not exist")


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_EXTENSIONS)


@dataclass(frozen=True)
class InputTransform:
    """An image that is read for the first time. region: as for `common.predictor.EvaluationTransform`.

    Arrays: image (H, W, 3); matrix (2, 3), from pixels of the input to pixels of the original; size (2,): width and
    height of the original.
    """

    resize: Resize
    region: Callable[[Sample], Region | None]

    def layout(self, shape: Shape) -> Layout:
        """Arrays of one sample for an input of `shape` (width, height)."""
        return {
            "image": ((shape[1], shape[0], 3), "uint8"),
            "matrix": ((2, 3), "float64"),
            "size": ((2,), "int64"),
        }

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill `out`. Raises ImageError."""
        pixels, size = decode(sample.image)
        out["size"][...] = size
        out["matrix"][...] = self.resize.draw(pixels, out["image"], self.region(sample))


def box_region(sample: Sample) -> Region | None:
    """The box of an image that a sample is: x1, y1, x2, y2 behind the first number of its annotation."""
    x1, y1, x2, y2 = sample.annotation[1:5].tolist()
    return x1, y1, x2, y2


def frames(path: str) -> Iterator[np.ndarray]:
    """The frames of a video as (H, W, 3) uint8 RGB. Raises DataError for what is no video."""
    video = cv2.VideoCapture(os.path.abspath(path))
    try:
        decoded, frame = video.read()
        if not decoded:
            raise DataError(f"{printable(path)}: not a video that can be read")
        while decoded:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            decoded, frame = video.read()
    finally:
        video.release()


def frame_count(path: str) -> int:
    """How many frames a video says that it has; 0 where it does not say."""
    video = cv2.VideoCapture(os.path.abspath(path))
    try:
        count = video.get(cv2.CAP_PROP_FRAME_COUNT)
        return int(count) if 0 < count < 1 << 40 else 0
    finally:
        video.release()


def relative_name(path: str, base: str) -> str:
    """A path below `base` without it."""
    return os.path.relpath(os.path.abspath(path), base)


def free_folder(out: Path, inputs: Sequence[str] = ()) -> None:
    """Raise ConfigurationError unless results can appear at `out`, which none of the inputs' folders may hold."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ConfigurationError(
            f"--out: {printable(str(out))} is not empty; name a folder that does not exist"
        )
    for word in inputs:
        if os.path.isdir(word) and os.path.realpath(out).startswith(os.path.join(os.path.realpath(word), "")):
            raise ConfigurationError(f"--out: {printable(str(out))} lies in {printable(word)}, which is read")
