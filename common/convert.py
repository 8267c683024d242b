"""`python3 -m common.convert SOURCE OUT --to FORMAT`: a set, or a whole export, from any format into another."""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from common.commands import add_out, carry_out, command_parser, named_path
from common.config.values import FORMATS
from common.data.boxes import clip_box
from common.data.formats import classes as class_names
from common.data.formats import coco, csv, labelme, txt, voc, yolo
from common.data.formats.base import AnnotatedSet, Object, Place, Record, inside
from common.data.formats.recognise import open_set
from common.data.formats.writing import Exported, Target
from common.data.problems import BadSample, Problem
from common.data.set_names import set_folders
from common.errors import ConfigurationError, DataError
from common.files import new_folder, replacing, spelled_out
from common.images.decoding import ImageError, printable, probe
from common.language import said

WRITERS = {"txt": txt, "coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "csv": csv}
TASKS = ("detection", "classification", "reid", "landmark")
REPORT = "conversion.log"

_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as the command line says; the exit status."""
    return carry_out(convert, _parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "convert",
        "Read labels in any format and write them in another. Images are hard-linked where that works, else copied. "
        "What the new format cannot hold is counted and said, and stands in conversion.log.",
        "读取任意格式的标注，写成另一种格式。图像尽量用硬链接，否则复制。新格式无法保存的内容会计数、提示，并写入 "
        "conversion.log。",
    )
    parser.add_argument(
        "source",
        type=named_path,
        help=said(
            "a set, or a whole export with train, valid and test sets",
            "一个数据集，或含训练、验证和测试集的完整导出",
        ),
    )
    add_out(parser, "out")
    parser.add_argument(
        "--to",
        required=True,
        choices=list(WRITERS),
        help=said("format to write (csv: classes of images)", "要写出的格式（csv：图像的类别）"),
    )
    parser.add_argument(
        "--from",
        dest="origin",
        default="auto",
        choices=["auto", *FORMATS],
        help=said("format to read (default: found out)", "要读取的格式（默认自动识别）"),
    )
    parser.add_argument(
        "--task",
        default="detection",
        choices=TASKS,
        help=said("what the labels are for (default: detection)", "标注的用途（默认 detection，即检测）"),
    )
    parser.add_argument(
        "--annotations",
        type=named_path,
        help=said(
            "file or folder of the annotations where they lie elsewhere", "标注不在通常位置时，其文件或文件夹"
        ),
    )
    parser.add_argument(
        "--classes",
        help=said(
            "names of the classes in their order, with commas; others are left out",
            "按顺序列出的类别名，用逗号分隔；其他类别不写出",
        ),
    )
    return parser


def convert(options: argparse.Namespace) -> None:
    """Read, and write OUT. Raises JobError."""
    source, out = spelled_out(options.source), options.out
    if not source.is_dir():
        raise ConfigurationError(f"SOURCE: {printable(str(source))} is not a folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(
            f"OUT: {printable(str(out))} is not empty; name a folder that does not exist"
        )
    if os.path.realpath(out).startswith(os.path.join(os.path.realpath(source), "")):
        raise ConfigurationError(f"OUT: {printable(str(out))} lies in SOURCE")
    if options.to == "csv" and options.task not in ("classification", "reid"):
        raise ConfigurationError(
            "--to csv: it holds classes of images; give --task classification, or another format"
        )
    if options.to not in ("txt", "csv") and options.task not in WRITERS[options.to].TASKS:
        usable = [name for name, module in WRITERS.items() if options.task in module.TASKS]
        raise ConfigurationError(
            f"--to {options.to}: cannot hold {options.task}; formats that can: {', '.join(usable)}"
        )
    given = (
        [name.strip() for name in options.classes.replace("，", ",").split(",")] if options.classes else None
    )
    places = _places(options)
    sets = _opened(places, options.origin)
    if (
        given is None
        and options.task == "detection"
        and all(opened.format == "txt" for opened in sets.values())
    ):
        given = txt.names_beside(next(iter(places.values()))) or None
    read = {part: _records(part, opened) for part, opened in sets.items()}
    labels = {
        thing.label for entries, _ in read.values() for _, record in entries for thing in record.objects
    }
    ordered = [opened.names for opened in sets.values()]
    classes, ids = class_names.settle(ordered, labels, given)
    if options.task == "landmark" and not classes:
        classes = ["object"]  # formats that name what the points are of need a name
    with new_folder(out) as folder:
        report: list[str] = []
        for part, (entries, problems) in read.items():
            opened = sets[part]
            lost: Counter[str] = Counter()
            names = dict(zip(opened.images, _image_names(opened, places[part]), strict=True))
            images = [
                _exported(path, names[path], record, classes, ids, options, lost, problems)
                for path, record in entries
            ]
            keypoints = opened.keypoints or _keypoints(images)
            target = Target(folder, part, options.task, classes, keypoints, images, lost)
            WRITERS[options.to].write(target)
            report += _told(part, opened, images, lost, problems)
        with replacing(folder / REPORT, "w") as file:
            file.writelines(f"{line}\n" for line in report)


def _places(options: argparse.Namespace) -> dict[str, Place]:
    """The sets of SOURCE by name; "" for one that is a set itself."""
    source = str(spelled_out(options.source))
    annotations = str(options.annotations) if options.annotations else None
    if annotations and not os.path.exists(annotations):
        raise ConfigurationError(f"--annotations: {printable(annotations)} does not exist")
    parts: dict[str, Place] = {}
    root = (
        source
        if annotations is None
        else os.path.commonpath([os.path.abspath(source), os.path.abspath(annotations)])
    )
    if options.annotations is None and options.task != "reid":
        for part, folder in set_folders(source).items():
            parts[part] = Place(source, os.path.join(source, folder), None, part, options.task)
    if not parts and annotations is None and options.task == "detection":
        lists = os.path.join(source, "ImageSets", "Main")
        for part, name in (("train", "train"), ("valid", "val"), ("test", "test")):
            if os.path.isfile(os.path.join(lists, f"{name}.txt")):
                parts[part] = Place(source, source, None, part, options.task)
    if options.task == "classification" and set(parts) == {"test"}:
        parts = {}  # a class may have such a name
    if not parts:
        parts[""] = Place(
            root,
            os.path.abspath(source) if annotations else source,
            annotations and os.path.abspath(annotations),
            "",
            options.task,
        )
    return parts


def _opened(places: dict[str, Place], origin: str) -> dict[str, AnnotatedSet]:
    """Open the sets, and say what they are."""
    sets = {}
    for part, place in places.items():
        opened, reason = open_set(place, origin)
        found, count = f"{printable(place.folder)}: {opened.format}", len(opened.images)
        english, chinese = (f" ({reason[0]})", f"（{reason[1]}）") if origin == "auto" else ("", "")
        print(said(f"{found}{english}, {count} images", f"{found}{chinese}，{count} 张图像"))
        sets[part] = opened
    return sets


def _records(part: str, opened: AnnotatedSet) -> tuple[list[tuple[str, Record]], list[Problem]]:
    """Images with their records and sizes, and what was wrong."""
    problems = list(opened.problems)
    records: list[tuple[str, Record]] = []
    for path, entry in zip(opened.images, opened.entries, strict=True):
        try:
            width, height = probe(path)
            record = opened.parse(path, entry, width, height)
        except ImageError as error:
            problems.append(Problem(error.path, None, error.reason))
            continue
        except BadSample as error:
            problems.extend(error.problems)
            continue
        problems.extend(record.problems)
        record.width, record.height = width, height
        records.append((path, record))
    if not records:
        reason = f": {problems[0]}" if problems else ""
        raise DataError(f"no image of the set {part or 'in SOURCE'} can be read{reason}")
    return records, problems


def _exported(
    path: str,
    name: str,
    record: Record,
    classes: Sequence[str],
    ids: dict[str | int, int],
    options: argparse.Namespace,
    lost: Counter[str],
    problems: list[Problem],
) -> Exported:
    """An image as it is written: labels by name, boxes within the image."""
    objects = []
    for thing in record.objects:
        if options.task == "landmark":
            label = classes[ids.get(thing.label, 0)]
        elif thing.label not in ids:
            lost[f"objects of the class {thing.label}, which --classes does not name"] += 1
            continue
        else:
            label = classes[ids[thing.label]]
        box = thing.box
        if box is not None and options.task != "landmark":
            clipped, reason = clip_box(box, record.width, record.height)
            if reason:
                problems.append(Problem(record.source, thing.line, reason, clipped is not None))
            if clipped is None:
                continue
            box = box if not reason else (clipped[0], clipped[1], clipped[2], clipped[3])
        objects.append(Object(label, box, thing.points, thing.crowd, thing.difficult, thing.line))
    return Exported(path, name, record.width, record.height, objects)


def _image_names(opened: AnnotatedSet, place: Place) -> list[str]:
    """Paths of the images within their set, without the folder that their old format puts them in."""
    names = [
        os.path.relpath(path, place.folder if inside(path, place.folder) else place.root)
        for path in opened.images
    ]
    for folder in ("images", "JPEGImages"):
        if all(name.startswith(folder + os.sep) for name in names):
            return [name[len(folder) + 1 :] for name in names]
    return names


def _keypoints(images: Sequence[Exported]) -> list[str]:
    """Names of the keypoints: those of the first thing that has points, else their numbers."""
    for image in images:
        for thing in image.objects:
            if thing.points:
                return [point.name or str(index) for index, point in enumerate(thing.points)]
    return []


def _told(
    part: str,
    opened: AnnotatedSet,
    images: Sequence[Exported],
    lost: Counter[str],
    problems: Sequence[Problem],
) -> list[str]:
    """Say what became of a set; lines of the report, which has all of it."""
    name = f"{part}: " if part else ""
    objects = sum(len(image.objects) for image in images)
    done = f"{name}{len(images)} images, {objects} objects written"
    print(said(done, f"{name}已写出 {len(images)} 张图像、{objects} 个目标"))
    not_written = [f"{name}not written: {count} {what}" for what, count in lost.items()]
    notes = [f"{name}{problem}" for problem in [*problems, *opened.skipped]]
    for line in [*not_written, *notes[:_SHOWN]]:
        print(line, file=sys.stderr)
    if len(notes) > _SHOWN:
        more = len(notes) - _SHOWN
        print(
            said(f"{name}... and {more} more in {REPORT}", f"{name}……另有 {more} 条，见 {REPORT}"),
            file=sys.stderr,
        )
    return [f"{done} (from {opened.format})", *not_written, *notes]


if __name__ == "__main__":
    sys.exit(main())
