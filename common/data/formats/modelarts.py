"""ModelArts: a manifest, one JSON object a line, with `source`, `annotation` and `usage`.

Classes of whole images are in the manifest, boxes in VOC's XML files that it names (`annotation-loc`). What is
annotated by a machine counts like the rest. Lines without an annotation are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.data.formats import voc, xml_tree
from common.data.formats.base import (
    MOST_IMAGES,
    AnnotatedSet,
    AnnotationProblems,
    FormatError,
    ImageFinder,
    Object,
    Place,
    Record,
    excerpt,
    label_text,
)
from common.data.formats.parts import part_of, those_of
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.files import open_regular
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "classification")

LONGEST_LINE = 1 << 20
_XML_LIMIT = 4 << 20


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is ModelArts's; None: it is not."""
    file = _find(place, listing)
    return (
        (f"{printable(file)} is a manifest", f"{printable(file)} 是 ModelArts 的清单文件") if file else None
    )


def _find(place: Place, listing: Listing) -> str | None:
    if place.annotations is not None:
        if os.path.isfile(place.annotations):
            return place.annotations if place.annotations.lower().endswith(".manifest") else None
        names = [os.path.join(place.annotations, name) for name in sorted(os.listdir(place.annotations))]
    else:
        names = listing.with_extension(".manifest")
        for folder in place.above():
            names += [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    names = list(
        dict.fromkeys(name for name in names if name.lower().endswith(".manifest") and os.path.isfile(name))
    )
    if len(names) > 1:
        own = [name for name in names if part_of(os.path.basename(name).rpartition(".")[0]) == place.part]
        if len(own) != 1:
            key = f"dataset.{place.part or 'train'}_annotations"
            listed = ", ".join(map(printable, names[:5]))
            raise DataError(
                f"{printable(place.folder)}: {len(names)} manifests, {listed}: name one with {key}"
            )
        names = own
    return next(iter(names), None)


def lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Numbers, from 1, and texts of the lines that are not blank. Raises FormatError."""
    try:
        with os.fdopen(open_regular(file), "rb") as stream:
            number = 0
            while text := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(text) > LONGEST_LINE:
                    raise FormatError(file, number, f"a line of more than {LONGEST_LINE} bytes")
                if number > MOST_IMAGES:
                    raise FormatError(file, number, f"more than {MOST_IMAGES} lines")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise FormatError(file, None, f"cannot be read: {error.strerror}") from None


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set that a manifest lists. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(f"{printable(place.folder)}: no .manifest is there, nor above it")
    finder = ImageFinder(listing, place.root)
    files = ImageFinder(listing, place.root, xml=True)
    problems = AnnotationProblems()
    entries: list[tuple[str, str, ManifestEntry]] = []
    seen: set[str] = set()
    unlabelled: list[Problem] = []
    for number, text in lines(file):
        try:
            item = json.loads(text)
        except json.JSONDecodeError as error:
            problems.add(
                file, number, f"column {error.colno}: not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
            )
            continue
        except (RecursionError, ValueError):
            problems.add(file, number, "not JSON that can be read")
            continue
        source = item.get("source") if isinstance(item, dict) else None
        if not isinstance(source, str):
            problems.add(file, number, f"source {excerpt(source)} names no image")
            continue
        path, reason = finder.find(source, file)
        if path is None:
            problems.add(file, number, reason)
            continue
        if path in seen:
            problems.add(file, number, f"{printable(path)} stands there twice")
            continue
        seen.add(path)
        entry = _entry(file, number, item, files, place.task, problems)
        if entry is not None:
            entries.append((path, part_of(item.get("usage")), entry))
        else:
            unlabelled.append(Problem(path, None, f"no annotation in {os.path.basename(file)}:{number}"))
    if not entries and not problems and not unlabelled:
        raise FormatError(file, None, "holds no line")
    entries, others = those_of(place.part, entries)
    entries.sort(key=lambda entry: finder.order(entry[0]))
    unlabelled += [Problem(path, None, f"its usage is {part!r}") for path, part, _ in others]
    unlabelled += [
        Problem(path, None, f"{os.path.basename(file)} has no line of it")
        for path in listing.images
        if path not in seen
    ]
    xmls = [entry.xml for _, _, entry in entries if entry.xml]
    first = 0 if any(voc.counts_from_zero(xml) for xml in xmls) else 1
    return AnnotatedSet(
        "modelarts", [path for path, _, _ in entries], [entry for _, _, entry in entries], ModelArtsParser(first),
        problems=problems.closed(file), skipped=unlabelled, files=[file],
        own_files=[entry.xml or path for path, _, entry in entries],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A line of a manifest. xml: the file with its boxes, "" where there is none. labels: classes of the image."""

    file: str
    line: int
    xml: str
    labels: tuple[str, ...]


def _entry(
    file: str, number: int, item: dict[str, Any], files: ImageFinder, task: str, problems: AnnotationProblems
) -> ManifestEntry | None:
    annotations = item.get("annotation", item.get("annotations"))
    labels: list[str] = []
    xml = ""
    for annotation in annotations if isinstance(annotations, list) else ():
        if not isinstance(annotation, dict):
            continue
        kind = str(annotation.get("type", ""))
        if task == "classification" and kind.endswith("image_classification"):
            label = label_text(annotation.get("name"))
            labels += [label] if label else []
        location = annotation.get("annotation-loc", annotation.get("annotation_loc"))
        if task == "detection" and isinstance(location, str):
            path, reason = files.find(location, file)
            if path is None:
                problems.add(file, number, f"annotation-loc {reason}")
            xml = path or xml
    if len(set(labels)) > 1:
        problems.add(
            file,
            number,
            f"{len(set(labels))} classes of one image, {', '.join(sorted(set(labels)))}: one is learnt",
        )
        return None
    return ManifestEntry(file, number, xml, tuple(labels[:1])) if xml or labels else None


@dataclass(frozen=True)
class ModelArtsParser:
    """Reads a line's XML, or gives its class. first: what the first pixel counts as in XML files."""

    first: int

    def __call__(self, image: str, entry: ManifestEntry, width: int, height: int) -> Record:
        if entry.xml:
            return voc.record_of(xml_tree.parse(entry.xml, _XML_LIMIT), entry.xml, self.first)
        return Record(entry.file, [Object(label, line=entry.line) for label in entry.labels])
