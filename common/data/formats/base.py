"""What every format of labels gives: images, and what is annotated in each.

A reader finds the images of a set and, beside each, what its annotation is made from (an entry: the path of a file, or
the rows of a file that holds them all). Workers turn entries into records; ids become classes afterwards, in `classes`.
Coordinates are float64 pixels of the image as a person sees it, edges of pixels counted from 0: a box that covers a
whole image is 0, 0, width, height.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.hints import TURNED
from common.data.listing import Listing
from common.data.problems import IMAGE_EXTENSIONS, BadSample, Problem
from common.errors import DataError
from common.files import open_regular
from common.images.decoding import printable, read_file

SETS = ("train", "valid", "test")

# What one set may have; more is a mistake or an attack, and is said.
MOST_OBJECTS = 10_000
"""Objects of an image."""
MOST_IMAGES = 2_000_000
"""Images of a set, and lines of a list or manifest."""
MOST_PROBLEMS = 1000
"""AnnotationProblems of annotation files that are kept word for word; further ones are counted."""
MOST_CLASSES = 10_000
"""Classes of a set."""
TEXT_LIMIT = 64 << 20
"""Bytes of a file of annotations that is read at once."""

# Coordinates that were shares of an image come back from text as close as this to the whole pixel that they were.
_SNAP = 0.001
LARGEST = 1e7
"""The largest coordinate or side that there can be."""

_LONGEST_PATH = 4096
_LONGEST_NUMBER = 40
_MARGIN = 0.25
_PLAIN = frozenset({int, float})

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Point:
    """A keypoint in pixels. name: its label, where the format has them."""

    x: float
    y: float
    visible: bool = True
    name: str | None = None


Label = str | int
"""The class of an object by name or, in formats without names, by id."""


@dataclass(slots=True)
class Object:
    """One annotated thing.

    label: see Label. box: x1, y1, x2, y2. crowd: a region of many things;
    difficult: marked as too hard to count; both are neither objects nor background. line: of the annotation's file.
    """

    label: Label
    box: Box | None = None
    points: tuple[Point, ...] = ()
    crowd: bool = False
    difficult: bool = False
    line: int | None = None


@dataclass(slots=True)
class Record:
    """What is annotated in an image. source: the file that says so. problems: what had to be left out of it.

    width, height: of the image as its annotation states it; 0: it does not.
    """

    source: str
    objects: list[Object] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    width: int = 0
    height: int = 0


Parse = Callable[[str, Any, int, int], Record]
"""From an image, its entry, and its width and height in pixels to its record; picklable. Raises BadSample."""


@dataclass(frozen=True)
class Place:
    """Where a set is, and where its annotations may be.

    root: nothing outside of it is read. folder: of the images. annotations: file or folder that was named for this set.
    part: train, valid or test, for exports that hold several; "": whatever there is. task: detection, classification,
    reid or landmark. kept: where what is read of one large file may be kept for the next start.
    """

    root: str
    folder: str
    annotations: str | None = None
    part: str = ""
    task: str = "detection"
    kept: Path | None = None

    def above(self) -> Iterator[str]:
        """The set's folder and those above it, up to the root."""
        current = os.path.normpath(self.folder)
        root = os.path.normpath(self.root)
        while True:
            yield current
            parent = os.path.dirname(current) or os.curdir
            if current == root or not inside(parent, root) or parent == current:
                return
            current = parent


class AnnotationProblems(list[Problem]):
    """Problems of annotation files, the first MOST_PROBLEMS word for word; `closed` adds how many more there were."""

    def __init__(self) -> None:
        super().__init__()
        self.further = 0

    def add(self, file: str, line: int | None, reason: str) -> None:
        if len(self) < MOST_PROBLEMS:
            self.append(Problem(file, line, reason))
        else:
            self.further += 1

    def closed(self, file: str) -> list[Problem]:
        """All that were added; `file` is named for those that are only counted."""
        more = [Problem(file, None, f"{self.further} more problems like those")] if self.further else []
        return [*self, *more]


class RecordProblems:
    """Problems within the records of one file, the first MOST_PROBLEMS of all word for word."""

    def __init__(self) -> None:
        self._left = MOST_PROBLEMS

    def kept(self, problems: list[Problem]) -> list[Problem]:
        """Those of a record that are kept; the last one says how many more there were."""
        kept, further = problems[: self._left], problems[self._left :]
        self._left -= len(kept)
        if further:
            reason = f"{further[0].reason}; {len(further) - 1} more problems of this image"
            kept.append(Problem(further[0].file, further[0].line, reason))
        return kept


@dataclass
class AnnotatedSet:
    """The images of a set with what their annotations are made from.

    images: paths, in the order of the listing. entries: one for each, for `parse`. names: classes in the order of their
    ids, where the format has both. problems: what annotation files name that cannot be used; skipped: images and files
    that do not belong to the set. files: annotation files that say something of all images. own_files: for each image
    the file that annotates it alone (the image itself: there is none); None: `files` hold everything. keypoints: labels
    of the points in their order, where the format has one for all.
    """

    format: str
    images: list[str]
    entries: Sequence[Any]
    parse: Parse
    names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    keypoints: list[str] = field(default_factory=list)
    own_files: Sequence[str] | None = None


def stated_size(record: Record, image: str, width: int, height: int) -> list[Problem]:
    """What is to be said of the size that a record states of its image, width x height.

    Raises BadSample where it is another one: then its pixels are not those of the image.
    """
    stated = record.width, record.height
    if 0 in stated or stated == (width, height):
        return []
    told = f"annotated as {record.width}x{record.height}, but the image is {width}x{height}"
    if stated == (height, width):
        reason = f"{printable(image)}: {told} as it is shown, turned by its EXIF orientation"
        return [Problem(record.source, None, reason, True, "another orientation", TURNED)]
    raise bad(record.source, None, f"{printable(image)}: {told}; left out")


class FormatError(DataError):
    """Annotations of a whole set that cannot be read: file, line and reason."""

    def __init__(self, file: str, line: int | None, reason: str, column: int | None = None) -> None:
        place = "".join(f":{number}" for number in (line, column) if number is not None)
        super().__init__(f"{printable(file)}{place}: {reason}")


def bad(file: str, line: int | None, reason: str) -> BadSample:
    """The error that leaves an image out."""
    return BadSample(Problem(file, line, reason))


# Paths


def inside(path: str, root: str) -> bool:
    """Whether `path` lies in `root`, judged as text: links may lead out."""
    path, root = os.path.normpath(path), os.path.normpath(root)
    if root == os.curdir:
        return not os.path.isabs(path) and path.split(os.sep)[0] != os.pardir
    return path == root or path.startswith(os.path.join(root, ""))


def is_image(path: str) -> bool:
    """Whether a name that an annotation gives is an image's, whatever the case of its extension."""
    return os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS


class ImageFinder:
    """Finds the images that annotations name, on whatever machine they were written.

    An image is looked for as written (within the set's folder or its `images`, then within the root), then relative
    to its annotation, then by its name where that is unique below the set's folder; of several with the name, the one
    whose folders agree with what is written furthest. Nothing outside of the root is looked at.
    """

    def __init__(self, listing: Listing, root: str, *, xml: bool = False) -> None:
        """xml: XML files are looked for instead."""
        self.listing = listing
        self._root = os.path.normpath(root)
        self._files = listing.with_extension(".xml") if xml else listing.images
        self._order = {path: place for place, path in enumerate(self._files)}
        self._extensions = (".xml",) if xml else IMAGE_EXTENSIONS
        self._by_name: dict[str, list[str]] | None = None
        # Exports put their images into a folder `images` that names of images leave out.
        inner = os.path.join(listing.folder, "images")
        self._bases = [listing.folder, *([inner] if inner in listing.folders else []), self._root]

    def order(self, path: str) -> tuple[int, str]:
        """Key by which images are sorted: those of the listing in its order, then others by path."""
        return self._order.get(path, len(self._order)), path

    def find(self, written: str, beside: str) -> tuple[str | None, str]:
        """The path of the image that the annotation file `beside` names, or None and the reason."""
        if "\0" in written or not written.strip() or len(written) > _LONGEST_PATH:
            return None, f"{excerpt(written)} is no name of an image"
        path = written.strip().replace("\\", "/")
        has_scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path)
        local = path[has_scheme.end() - 1 :] if has_scheme else path
        outside = False
        if not has_scheme:
            for base in (*self._bases, os.path.dirname(beside)):
                candidate = os.path.normpath(os.path.join(base, local))
                if not inside(candidate, self._root):
                    outside = True
                elif candidate in self._order or (
                    candidate.lower().endswith(self._extensions) and os.path.isfile(candidate)
                ):
                    return candidate, ""
        matches = self._find_by_name(local)
        if len(matches) == 1:
            return matches[0], ""
        if matches:
            return (
                None,
                f"{excerpt(written)}: {len(matches)} files have this name, such as {printable(matches[0])}",
            )
        if outside:
            return (
                None,
                f"{excerpt(written)}: not below {printable(self._root)}, and no file of the set has this name",
            )
        if not local.lower().endswith(self._extensions):
            return None, f"{excerpt(written)}: not there, and not {' '.join(self._extensions)} by its name"
        return None, f"{excerpt(written)}: there is no such file"

    def _find_by_name(self, written: str) -> list[str]:
        if self._by_name is None:
            self._by_name = {}
            for path in self._files:
                self._by_name.setdefault(_form(posixpath.basename(path)), []).append(path)
        for text in dict.fromkeys((written, urllib.parse.unquote(written))):
            parts = [_form(part) for part in text.split("/") if part]
            matches = self._by_name.get(parts[-1], []) if parts else []
            if len(matches) > 1:
                alike = [_common_end(parts, [_form(part) for part in path.split("/")]) for path in matches]
                best = max(alike)
                matches = [path for path, length in zip(matches, alike, strict=True) if length == best]
            if matches:
                return matches
        return []


def closest(file: str, images: Sequence[str]) -> list[str]:
    """Those of several images of a file's name that lie beside it, else in folders named most like its own."""
    if len(images) < 2:
        return list(images)
    own = os.path.dirname(file)
    beside_it = [image for image in images if os.path.dirname(image) == own]
    if beside_it:
        return beside_it
    parts = own.split(os.sep)
    folders = [os.path.dirname(image).split(os.sep) for image in images]
    alike = [(_common_end(parts, folder), -len(folder)) for folder in folders]
    best = max(alike)
    return [image for image, key in zip(images, alike, strict=True) if key == best]


def _common_end(left: Sequence[str], right: Sequence[str]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[-1 - count] == right[-1 - count]:
        count += 1
    return count


def _form(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


# Values


def excerpt(value: Any, most: int = 60) -> str:
    """A value from a file as an error shows it: on one line, shortened."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str) else value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested deeply"
    return text if len(text) <= most + 2 else f"{text[:most]}…"


def finite(value: Any) -> float | None:
    """`value` (a number, or text that is one) as a float of a size that coordinates have; None: it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and (len(value) > _LONGEST_NUMBER or "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None


def finite_texts(texts: Sequence[str]) -> list[float] | None:
    """Texts as floats, if each is one that `finite` takes."""
    try:
        numbers = list(map(float, texts))
    except ValueError:
        return None
    if numbers and not (
        min(numbers) >= -LARGEST and max(numbers) <= LARGEST and not math.isnan(sum(numbers))
    ):
        return None
    together = "".join(texts)
    if "_" in together or (len(together) > _LONGEST_NUMBER and max(map(len, texts)) > _LONGEST_NUMBER):
        return None
    return numbers


def finite_list(values: Any, count: int | None = None) -> list[float] | None:
    """`values` as floats, if they are `count` (None: any number of) finite numbers."""
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count):
        return None
    if _PLAIN.issuperset(map(type, values)):  # the same as below, for all at once
        if not values:
            return []
        least, most = min(values), max(values)
        if -LARGEST <= least <= most <= LARGEST and not math.isnan(sum(values)):
            return list(values)
        return None
    numbers = [finite(value) for value in values]
    return None if None in numbers else numbers  # type: ignore[return-value]


def whole_id(value: Any) -> int | str | None:
    """An id of a JSON file in one form: 7, 7.0 and "7" are the same; None: it is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value[:200] or None
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def size(value: Any) -> int:
    """A stated width or height; 0 where it states none."""
    number = finite(value)
    return int(number) if number is not None and number >= 1 else 0


def snapped(value: float) -> float:
    """A coordinate that was a share of the image: the whole pixel it lies next to, if there is one."""
    nearest = float(round(value))
    return nearest if abs(value - nearest) <= _SNAP else value


def sorted_box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """A box of two corners, whichever they are: tools keep them as they were drawn."""
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def hull(points: Sequence[tuple[float, float]]) -> Box:
    """The box around points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def around_points(thing: Object) -> Box:
    """The box of a thing that has points alone, a quarter larger on each side than what the visible ones span."""
    x1, y1, x2, y2 = hull([(point.x, point.y) for point in thing.points if point.visible] or [(0.0, 0.0)])
    across, down = (x2 - x1) * _MARGIN, (y2 - y1) * _MARGIN
    return x1 - across, y1 - down, x2 + across, y2 + down


def box_to_write(thing: Object, things: int, width: int, height: int) -> Box:
    """The box of one of several things of an image for formats in which each has one: a thing that has points alone is
    all of the image, or where it has company what lies around its points; what is read back is the same samples."""
    if thing.box is not None:
        return thing.box
    if things == 1:
        return 0.0, 0.0, float(width), float(height)
    x1, y1, x2, y2 = around_points(thing)
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def pairs(values: Any) -> list[tuple[float, float]] | None:
    """[[x, y], ...] or [x, y, x, y, ...] as points; None: it is neither."""
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (list, tuple)):
        points = [
            point if isinstance(point, (list, tuple)) and len(point) == 2 else (None,) for point in values
        ]
        numbers = finite_list([number for point in points for number in point])
    else:
        numbers = finite_list(values)
    if not numbers or len(numbers) % 2:
        return None
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def label_text(value: Any) -> str | None:
    """The name of a class as one line without blanks around it; None: it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{value:.15g}" if isinstance(value, float) else str(value)[:200]
    if not isinstance(value, str):
        return None
    text = " ".join(_form(value[:1000]).split())
    return text or None


# Files


def read_text(path: str, limit: int = TEXT_LIMIT) -> str:
    """A text in UTF-8 (with or without mark), UTF-16 with its mark, or GBK. Raises BadSample."""
    return decoded(path, read_bytes(path, limit))


def read_bytes(path: str, limit: int = TEXT_LIMIT) -> bytes:
    """The bytes of an annotation file. Raises BadSample."""
    try:
        return read_file(path, limit)
    except OSError as error:
        raise bad(path, None, error.strerror or str(error)) from None
    except ValueError as error:  # a name that no file can have
        raise bad(path, None, str(error)) from None


def beginning(path: str, count: int) -> bytes:
    """The first `count` bytes of a regular file; none where it is not one, or cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def decoded(path: str, data: bytes) -> str:
    """The text that `data` is. Raises BadSample."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise bad(path, None, "not a text in UTF-8 or GBK")


def read_json(path: str, data: bytes) -> Any:
    """The value of the JSON file `path` whose bytes are `data`. Raises BadSample that names line and column."""
    text = decoded(path, data)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise bad(path, error.lineno, f"column {error.colno}: not JSON: {reason}") from None
    except RecursionError:
        raise bad(path, None, "brackets are nested too deeply") from None
    except ValueError:
        raise bad(path, None, "holds a number of thousands of digits") from None


def beside(image: str, extension: str) -> str:
    """The file of the image's name with another extension."""
    return os.path.splitext(image)[0] + extension
