"""What was wrong with a set: problems with their places, the report on a folder, the file that keeps it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import DataError
from common.files import write_json
from common.images.decoding import printable

log = logging.getLogger("visualtl")

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")
PROBLEMS_LOGGED = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of data_report.json. line: from 1, none where the whole file is meant. clipped: something was changed to
    fit and is still there; otherwise it was left out. kind: of the change, in a word or two, by which it is counted.
    hint: what many of these would mean for the set."""

    file: str
    line: int | None
    reason: str
    clipped: bool = False
    kind: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = "" if self.line is None else f":{self.line}"
        return f"{printable(self.file)}{place}: {self.reason}"


class BadSample(Exception):
    """An image, with all its samples, is left out because of `problems`."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(str(problem) for problem in self.problems)


@dataclass
class FolderReport:
    """What was found in a folder.

    images: files that are images by their extension. samples: made of them. problems: what was left out: whole images
    (images_left_out), and entries of the annotations of images that stay (entries_left_out). clipped: what was changed
    to fit. skipped: files and folders that were not looked into. other_files: neither images nor skipped, texts beside
    images among them. notes: what is used as it is, and may be meant otherwise.
    """

    folder: str
    images: int = 0
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)
    clipped: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    other_files: int = 0
    notes: list[Problem] = field(default_factory=list)
    images_left_out: int = 0
    entries_left_out: int = 0
    format: str = "txt"

    @staticmethod
    def joined(reports: Sequence[FolderReport]) -> FolderReport:
        """The report on several folders that are one set."""
        if len(reports) == 1:
            return reports[0]
        made = FolderReport(", ".join(report.folder for report in reports))
        made.format = ", ".join(report.format for report in reports)
        for report in reports:
            made.images += report.images
            made.samples += report.samples
            made.other_files += report.other_files
            made.images_left_out += report.images_left_out
            made.entries_left_out += report.entries_left_out
            for name in ("problems", "clipped", "skipped", "notes"):
                getattr(made, name).extend(getattr(report, name))
        return made

    @staticmethod
    def split_off(folder: str | Path, samples: int) -> FolderReport:
        """The report of a set that is a part of `folder`: what was left out stands in the report of the folder."""
        return FolderReport(str(folder), samples, samples)

    @property
    def kinds(self) -> dict[str, int]:
        """How much was changed to fit, by kind."""
        return dict(sorted(Counter(problem.kind or "other" for problem in self.clipped).items()))

    def as_json(self) -> dict[str, Any]:
        """The entry of data_report.json."""
        return {
            "folder": self.folder,
            "format": self.format,
            "images": self.images,
            "samples": self.samples,
            "other_files": self.other_files,
            "images_left_out": self.images_left_out,
            "entries_left_out": self.entries_left_out,
            "left_out": [_entry(problem) for problem in self.problems],
            "clipped": [_entry(problem) for problem in self.clipped],
            "clipped_kinds": self.kinds,
            "skipped": [_entry(problem) for problem in self.skipped],
            "notes": [_entry(problem) for problem in self.notes],
        }


class NoSamples(DataError):
    """A set of which nothing is left. report: what became of it."""

    def __init__(self, report: FolderReport) -> None:
        super().__init__(_nothing_left(report))
        self.report = report


def write_report(
    path: Path,
    reports: Mapping[str, FolderReport],
    summaries: Mapping[str, Mapping[str, Any]],
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write data_report.json: by set what was found and left out, and the task's own figures of it, then `notes`."""
    content = {name: {**report.as_json(), **summaries.get(name, {})} for name, report in reports.items()}
    write_json(path, {**content, **notes})


def _entry(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "reason": problem.reason}


def log_report(report: FolderReport) -> None:
    """Say what was found in a folder, and the first PROBLEMS_LOGGED of what was wrong with it."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items())
    counts = {
        "images left out": report.images_left_out,
        "entries left out of other images": report.entries_left_out,
        f"clipped ({kinds})": len(report.clipped),
        "skipped": len(report.skipped),
    }
    told = "".join(f", {count} {what}" for what, count in counts.items() if count)
    log.info("%s: %d images, %d samples%s", printable(report.folder), report.images, report.samples, told)
    notes = [(problem, "left out") for problem in report.problems]
    notes += [(problem, "skipped") for problem in report.skipped]
    notes += [(problem, "clipped") for problem in report.clipped]
    notes += [(problem, "note") for problem in report.notes]
    for problem, kind in notes[:PROBLEMS_LOGGED]:
        log.warning("%s: %s", kind.capitalize(), problem)
    if len(notes) > PROBLEMS_LOGGED:
        log.warning("... and %d more in the report", len(notes) - PROBLEMS_LOGGED)


def _nothing_left(report: FolderReport) -> str:
    folder = printable(report.folder)
    if not report.images:
        text = f"{folder} holds no image ({' '.join(IMAGE_EXTENSIONS)})"
    else:
        text = f"no sample is left of the {report.images} images in {folder}"
    reasons = Counter(problem.reason for problem in [*report.problems, *report.skipped])
    named = "; ".join(f"{reason} ({count} times)" for reason, count in reasons.most_common(3))
    return f"{text}: {named}" if named else text
