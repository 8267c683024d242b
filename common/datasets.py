"""The sets of a job: which folders there are, what is split off, and the report on all of it."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config.sections import DatasetConfig
from common.data.figures import listed
from common.data.listing import Listing
from common.data.marks import find_identical, image_marks
from common.data.problems import FolderReport, NoSamples, Problem
from common.data.report import Report
from common.data.samples import Annotate, Sample, read_folder
from common.data.splits import return_trained, split
from common.errors import DataError
from common.images.decoding import printable
from common.processes.pool import WorkerPool
from common.reporting import warnings
from common.reporting.progress import Step
from common.task import Task

log = logging.getLogger("visualtl")

# Opens a step of the progress and gives the function that advances it.
Steps = Callable[[Step], AbstractContextManager[Callable[[float], None]]]

_MISSING = "does not exist"
_IDENTICAL_LOGGED = 10
WORDS = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Datasets:
    """The samples of each set; none: there is no such set. classes: names by id. report: where the report stands.

    trained (n,) uint64: marks of the images that the model has seen in training when this job is done.
    """

    train: list[Sample]
    valid: list[Sample] | None
    test: list[Sample] | None
    classes: list[str]
    report: Report
    trained: np.ndarray


@dataclass(frozen=True)
class Folders:
    """Folders of the sets; none: no such folder."""

    train: Path
    valid: Path | None
    test: Path | None


def find_folders(dataset: DatasetConfig) -> Folders:
    """The folders that the configuration means. Raises DataError for one that it names and that is not there."""
    found: dict[str, Path | None] = {}
    for name in ("train_dir", "valid_dir", "test_dir"):
        value = getattr(dataset, name)
        folder = Path(dataset.data_root) / value if value is not None else None
        problem = _problem_of(folder) if folder is not None else None
        if problem == _MISSING and name != "train_dir" and dataset.is_default(name):
            folder = None
        elif problem:
            raise DataError(f"dataset.{name}: the folder {printable(str(folder))} {problem}")
        found[name] = folder
    train = found["train_dir"]
    assert train is not None
    return Folders(train, found["valid_dir"], found["test_dir"])


def _problem_of(folder: Path) -> str | None:
    """What is wrong with a folder that is to be read; None: nothing."""
    try:
        with os.scandir(folder):
            return None
    except FileNotFoundError:
        return _MISSING
    except NotADirectoryError:
        return "is not a folder"
    except (OSError, ValueError) as error:  # ValueError: of names that no file can have
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def load_datasets(
    task: Task[Any],
    steps: Steps,
    pool: WorkerPool,
    report: Report,
    *,
    keep: bool = False,
    trained: Collection[int] = (),
) -> Datasets:
    """Read all sets, split off what the configuration asks for, and fill and write the report.

    keep: what is read of large sets is kept beside the report, and read from there where nothing has changed. trained:
    marks of the images that the model has been trained on before; a split never validates or tests on them.

    Raises DataError for a folder that is missing, a set without samples, two sets of the same samples, or annotations
    that no job can use.
    """
    dataset = task.config.dataset
    listings = list_folders(find_folders(dataset))
    names = task.names(listings)
    annotate = task.annotations(listings, names)
    sets: dict[str, list[Sample]] = {}
    which = {"train": first_step(dataset), "valid": Step.LOAD_VALID_DATA, "test": Step.LOAD_TEST_DATA}
    try:
        for name, listing in listings.items():
            with steps(which[name]) as advance:
                cache = report.cache_file(name) if keep else None
                sets[name] = _read(name, listing, annotate, names, pool, advance, report, cache)
        marks = image_marks((sample.image for samples in sets.values() for sample in samples), pool)
        _keep_apart(sets, marks, report)
        trained = set(trained)
        _say_known(sets, marks, trained)
        if dataset.valid_share or dataset.test_share:
            sets = _split_off(task, sets, listings["train"].folder, marks, trained, report)
        classes = task.classes(listings, [sets.get(name, []) for name in WORDS])
        for name, samples in sets.items():
            summary = task.summary(samples, classes)
            report.summarise(name, summary)
            for sentence in summary.get("warnings", ()):
                warnings.warn(f"The {WORDS[name]} set: {sentence}")
        trained |= {marks[sample.image] for sample in sets["train"]}
        report.note("trained_images", {"count": len(trained), "marks": _text(trained)})
    finally:
        report.write()
    return Datasets(
        sets["train"],
        sets.get("valid"),
        sets.get("test"),
        classes,
        report,
        np.array(sorted(trained), np.uint64),
    )


def _keep_apart(sets: dict[str, list[Sample]], marks: Mapping[str, int], report: Report) -> None:
    """Take what a validation or test set holds out of the training set, and say which images are there twice.

    Raises DataError for two sets that hold the same images, and where nothing is left to train on.
    """
    held = {name: {marks[sample.image]: sample.image for sample in samples} for name, samples in sets.items()}
    for first, second in itertools.combinations(held, 2):
        if held[first].keys() == held[second].keys():
            raise DataError(
                f"dataset.{second}_dir: the {WORDS[second]} set holds the same images as the {WORDS[first]} set "
                f"(dataset.{first}_dir), byte for byte; give it others, or set it to null"
            )
    identical = find_identical(sets, marks)
    report.note("identical_images", identical)
    _say_identical(identical)
    elsewhere = {
        mark: f"the {WORDS[name]} set has it as well: {image}"
        for name in ("test", "valid")
        for mark, image in held.get(name, {}).items()
    }
    taken = {s.image: elsewhere[marks[s.image]] for s in sets["train"] if marks[s.image] in elsewhere}
    if not taken:
        return
    report.leave_out_quietly("train", [Problem(image, None, reason) for image, reason in taken.items()])
    warnings.warn(f"{len(taken)} images stay out of training: the validation or test set has them as well")
    sets["train"] = [sample for sample in sets["train"] if sample.image not in taken]
    if not sets["train"]:
        raise DataError(
            "nothing is left to train on: the validation or test set has all images of the training set"
        )


def _say_identical(identical: Sequence[dict[str, Any]]) -> None:
    between = sum(len(group["files"]) > 1 for group in identical)
    if between:
        warnings.warn(f"{between} images are in more than one set, byte for byte")
    if len(identical) > between:
        warnings.warn(f"{len(identical) - between} images are in a set more than once, byte for byte")
    for group in identical[:_IDENTICAL_LOGGED]:
        files = [f"{printable(file)} ({name})" for name, files in group["files"].items() for file in files]
        differently = ", annotated differently" if group["annotated_differently"] else ""
        log.warning("Identical%s: %s", differently, listed(files))
    if len(identical) > _IDENTICAL_LOGGED:
        log.warning("... and %d more in the report", len(identical) - _IDENTICAL_LOGGED)


def _say_known(sets: Mapping[str, list[Sample]], marks: Mapping[str, int], trained: Collection[int]) -> None:
    """Warn of validation and test sets of their own with images that the model has been trained on before."""
    for name in sets.keys() - {"train"}:
        images = {sample.image for sample in sets[name]}
        if known := sum(marks[image] in trained for image in images):
            warnings.warn(
                f"The model has been trained on {known} of the {len(images)} images of the {WORDS[name]} set before: "
                "its figures say too much"
            )


def _split_off(
    task: Task[Any],
    sets: Mapping[str, list[Sample]],
    folder: str,
    marks: Mapping[str, int],
    trained: Collection[int],
    report: Report,
) -> dict[str, list[Sample]]:
    """`sets` with the parts of the training set that the configuration asks for."""
    dataset = task.config.dataset
    samples = sets["train"]
    parts = split(samples, [Path(folder)], task.groups, dataset.valid_share, dataset.test_share, marks)
    parts, returned = return_trained(samples, parts, marks, trained)
    if returned:
        warnings.warn(
            f"The model has been trained on {returned} of the images that the split takes away from training: "
            "they stay in it"
        )
    report.note("returned_to_training", returned)
    new = {"train": parts[0]}
    for name, share, part in (
        ("valid", dataset.valid_share, parts[1]),
        ("test", dataset.test_share, parts[2]),
    ):
        if part:
            new[name] = part
            report.add(name, FolderReport.split_off(folder, len(part)))
        elif share:
            warnings.warn(f"dataset.{name}_size: no image can be spared for a {WORDS[name]} set")
    new = {**sets, **new}
    return {name: new[name] for name in WORDS if name in new}


def _text(marks: Collection[int]) -> str:
    return " ".join(f"{mark:016x}" for mark in sorted(marks))


def list_folders(folders: Folders) -> dict[str, Listing]:
    """What lies in the folders of the sets, by name; one within another belongs to that other set no more."""
    paths = {name: str(getattr(folders, name)) for name in WORDS if getattr(folders, name) is not None}
    return {name: Listing(path, list(paths.values())) for name, path in paths.items()}


def _read(
    name: str,
    listing: Listing,
    annotate: Annotate,
    names: Sequence[str],
    pool: WorkerPool,
    advance: Callable[[float], None],
    report: Report,
    cache_file: Path | None,
) -> list[Sample]:
    """The samples of the set `name`; the report has its folder also where nothing is left of it."""
    try:
        samples, found = read_folder(
            Path(listing.folder), annotate, pool, advance, cache_file, listing=listing, names=names
        )
    except NoSamples as error:
        report.add(name, error.report)
        raise
    report.add(name, found)
    return samples


def first_step(dataset: DatasetConfig) -> Step:
    """The step under which the training folder is read: it says what is split off from it."""
    if dataset.valid_share and dataset.test_share:
        return Step.LOAD_ALL_DATA
    return Step.LOAD_TRAIN_VALID_DATA if dataset.valid_share else Step.LOAD_TRAIN_DATA
