"""Pascal VOC: an XML for each image (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html).

Coordinates count from 1, and the pixels at both ends belong to the box: 1, 1, 10, 10 are the first ten pixels each way.
Tools that count from 0 write edges; they are recognised by a 0 among the corners of a set. Objects that are marked
`difficult` count neither in training nor in AP. XMLs lie in `Annotations/` (images in `JPEGImages/`, sets in
`ImageSets/Main/SET.txt`) or beside the images.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from xml.sax.saxutils import escape

from common.data.formats import xml_tree
from common.data.formats.base import (
    MOST_OBJECTS,
    AnnotatedSet,
    Box,
    FormatError,
    ImageFinder,
    Object,
    Place,
    Record,
    bad,
    beginning,
    closest,
    excerpt,
    finite,
    hull,
    is_image,
    label_text,
    read_text,
    size,
    sorted_box,
)
from common.data.formats.writing import Target, number, stem
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection",)

_LIMIT = 4 << 20
_ZERO = re.compile(rb"<[xy]min>\s*0+(?:\.0*)?\s*</")
_SET_NAMES = {"train": ("train", "trainval"), "valid": ("val", "valid"), "test": ("test",)}
_IMAGE_FOLDERS = ("JPEGImages", "images")


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is VOC's; None: it is not."""
    files = _xml_files(place, listing)
    for file in files[:5]:
        if re.search(rb"<annotation[\s>]", beginning(file, 64 << 10)):
            name, count = printable(file), len(files)
            return (
                f"{name} is one of {count} XML files with a root <annotation>",
                f"{name} 是 {count} 个根元素为 <annotation> 的 XML 文件之一",
            )
    return None


def _annotation_folder(place: Place) -> str | None:
    """The folder of the XMLs where they are kept apart from the images."""
    if place.annotations is not None and os.path.isdir(place.annotations):
        return place.annotations
    folder = os.path.normpath(place.folder)
    inner = os.path.join(folder, "Annotations")
    if os.path.isdir(inner):
        return inner
    parent, name = os.path.split(folder)
    aside = os.path.join(parent, "Annotations")
    return (
        aside
        if name in _IMAGE_FOLDERS and folder != os.path.normpath(place.root) and os.path.isdir(aside)
        else None
    )


def _xml_files(place: Place, listing: Listing) -> list[str]:
    folder = _annotation_folder(place)
    if place.annotations is not None and os.path.isfile(place.annotations):
        return _xml_below(folder) if folder else listing.with_extension(".xml")
    return _xml_below(folder) if folder else listing.with_extension(".xml")


def _xml_below(folder: str) -> list[str]:
    return Listing(folder).with_extension(".xml")


def _set_file(place: Place) -> str | None:
    """The text that lists the images of the set."""
    if place.annotations is not None and os.path.isfile(place.annotations):
        return place.annotations
    annotations = _annotation_folder(place)
    if annotations is None:
        return None
    lists = os.path.join(os.path.dirname(os.path.normpath(annotations)), "ImageSets", "Main")
    for name in (*_SET_NAMES.get(place.part, ()), os.path.basename(os.path.normpath(place.folder))):
        file = os.path.join(lists, f"{name}.txt")
        if os.path.isfile(file):
            return file
    if place.part and os.path.isdir(lists):
        names = {f"{name}.txt" for names in _SET_NAMES.values() for name in names}
        files = [os.path.join(lists, name) for name in sorted(os.listdir(lists)) if name in names]
        if len(files) == 1:
            return files[0]
        if files:
            raise DataError(
                f"{printable(lists)} has no {_SET_NAMES[place.part][0]}.txt; name a list with "
                f"dataset.{place.part}_annotations"
            )
    return None


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with VOC's XMLs. Raises DataError."""
    files = _xml_files(place, listing)
    if not files:
        raise DataError(
            f"{printable(place.folder)}: no XML is there, neither in Annotations/ nor beside the images"
        )
    by_stem: dict[str, list[str]] = {}
    for image in listing.images:
        by_stem.setdefault(os.path.basename(stem(image)), []).append(image)
    set_file = _set_file(place)
    wanted = _wanted(set_file) if set_file else None
    finder = ImageFinder(listing, place.root)
    entries: dict[str, str] = {}
    problems: list[Problem] = []
    used = set()
    zero = False
    for file in files:
        name = os.path.basename(stem(file))
        zero = zero or counts_from_zero(file)
        if wanted is not None and name not in wanted:
            continue
        used.add(name)
        owner = _image_of(file, by_stem.get(name, []), finder)
        if isinstance(owner, Problem):
            problems.append(owner)
        elif owner in entries:
            reason = f"{printable(owner)} has another XML, {printable(entries[owner])}"
            problems.append(Problem(file, None, reason))
        else:
            entries[owner] = file
    if wanted is not None and set_file is not None:
        problems += [
            Problem(set_file, line, f"{excerpt(name)}: there is no XML of it")
            for name, line in wanted.items() if name not in used
        ]  # fmt: skip
    images = sorted(entries, key=finder.order)
    reason = "its set's list does not name it" if wanted is not None else "there is no XML of it"
    skipped = [Problem(image, None, reason) for image in listing.images if image not in entries]
    own = [entries[image] for image in images]
    return AnnotatedSet(
        "voc", images, own, VocParser(0 if zero else 1), problems=problems, skipped=skipped,
        files=[set_file] if set_file else [], own_files=own,
    )  # fmt: skip


def _wanted(file: str) -> dict[str, int]:
    """Names of the images of a set, without extension, and their lines."""
    names: dict[str, int] = {}
    try:
        lines = read_text(file).split("\n")
    except BadSample as error:
        raise FormatError(file, None, error.problems[0].reason) from None
    for line, text in enumerate(lines, start=1):
        parts = text.split()
        # Lists of one class have -1, 0 or 1 behind the name.
        if len(parts) == 2 and parts[1] in ("-1", "0", "1"):
            text = parts[0] if parts[1] != "-1" else ""
        name = os.path.basename(text.strip().replace("\\", "/"))
        name = stem(name) if is_image(name) or name.endswith(".xml") else name
        if name:
            names.setdefault(name, line)
    return names


def counts_from_zero(file: str) -> bool:
    """Whether a corner in an XML is 0, which only tools write that count from there."""
    return _ZERO.search(beginning(file, _LIMIT)) is not None


def _image_of(file: str, alike: list[str], finder: ImageFinder) -> str | Problem:
    """The image of an XML: the one of its name, else the one that it names."""
    own = closest(file, alike)
    if len(own) == 1:
        return own[0]
    try:
        root = xml_tree.parse(file, _LIMIT)
    except BadSample as error:
        return error.problems[0]
    written = root.value("path") or root.value("filename")
    for candidate in filter(None, (root.value("filename"), written, os.path.basename(stem(file)) + ".jpg")):
        path, reason = finder.find(candidate, file)
        if path is not None:
            return path
    return Problem(file, None, f"its image is not there: {reason}")


@dataclass(frozen=True)
class VocParser:
    """Reads the XML of an image. first: what the first pixel counts as."""

    first: int

    def __call__(self, image: str, entry: str, width: int, height: int) -> Record:
        return record_of(xml_tree.parse(entry, _LIMIT), entry, self.first)


def record_of(root: xml_tree.Element, file: str, first: int) -> Record:
    """The record of an `<annotation>`. Raises BadSample."""
    if root.tag != "annotation":
        raise bad(file, root.line, f"<{root.tag[:50]}> where <annotation> belongs")
    stated = root.child("size")
    record = Record(file)
    if stated is not None:
        record.width, record.height = size(stated.value("width")), size(stated.value("height"))
    things = root.all("object")
    if len(things) > MOST_OBJECTS:
        raise bad(file, None, f"{len(things)} objects of one image; at most {MOST_OBJECTS} are read")
    for thing in things:
        name = label_text(thing.value("name"))
        if name is None:
            record.problems.append(Problem(file, thing.line, "an <object> without a <name>"))
            continue
        box = _box(thing, first)
        if box is None:
            record.problems.append(Problem(file, thing.line, f"{name!r} has no <bndbox> of four numbers"))
            continue
        record.objects.append(
            Object(name, box, difficult=thing.value("difficult").lower() in ("1", "true"), line=thing.line)
        )
    return record


def _box(thing: xml_tree.Element, first: int) -> Box | None:
    box = thing.child("bndbox")
    if box is not None:
        corners = [finite(box.value(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            return None
        x1, y1, x2, y2 = sorted_box(*corners)  # type: ignore[arg-type]
        return x1 - first, y1 - first, x2, y2
    polygon = thing.child("polygon")
    if polygon is None:
        return None
    values = {child.tag: child.text for child in reversed(polygon.children)}
    points = []
    for place in range(1, len(polygon.children) // 2 + 1):
        x, y = finite(values.get(f"x{place}")), finite(values.get(f"y{place}"))
        if x is None or y is None:
            return None
        points.append((x, y))
    if not points:
        return None
    x1, y1, x2, y2 = hull(points)
    return x1 - first, y1 - first, x2, y2


def write(target: Target) -> None:
    """SET/JPEGImages, SET/Annotations and SET/ImageSets/Main/SET.txt; coordinates count from 1."""
    names = []
    for image in target.images:
        target.place(image, os.path.join(target.part, "JPEGImages", image.name))
        names.append(stem(image.name))
        with target.text(os.path.join(target.part, "Annotations", stem(image.name) + ".xml")) as file:
            file.write(_annotation(image.name, image.width, image.height, image.objects, target))
    name = {"train": "train", "valid": "val", "test": "test"}.get(target.part)
    if name:
        with target.text(os.path.join(target.part, "ImageSets", "Main", f"{name}.txt")) as file:
            file.writelines(f"{entry}\n" for entry in names)


def _annotation(name: str, width: int, height: int, objects: list[Object], target: Target) -> str:
    lines = [
        "<annotation>",
        f"  <filename>{escape(os.path.basename(name))}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for thing in objects:
        if thing.box is None:
            target.lost["objects without a box"] += 1
            continue
        if thing.crowd:
            target.lost["crowd regions, written as difficult objects"] += 1
        x1, y1, x2, y2 = thing.box
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
        lines += [
            "  <object>",
            f"    <name>{escape(str(thing.label))}</name>",
            f"    <difficult>{int(thing.difficult or thing.crowd)}</difficult>",
            "    <bndbox>"
            + "".join(f"<{tag}>{number(value)}</{tag}>" for tag, value in corners)
            + "</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
