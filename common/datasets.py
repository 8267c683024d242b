"""The sets of a job: which folders there are, what is split off, and the report on all of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.sections import DatasetConfig
from common.data.report import Report
from common.data.samples import (
    Annotate,
    FolderReport,
    NoSamples,
    Sample,
    read_folder,
    split,
)
from common.errors import DataError
from common.images.decoding import printable
from common.processes.pool import WorkerPool
from common.reporting.progress import Step
from common.task import Task

log = logging.getLogger("visualtl")

# Opens a step of the progress and gives the function that advances it.
Steps = Callable[[Step], AbstractContextManager[Callable[[float], None]]]

_MISSING = "does not exist"


@dataclass(frozen=True)
class Datasets:
    """The samples of each set; none: there is no such set. classes: names by id. report: where the report stands."""

    train: list[Sample]
    valid: list[Sample] | None
    test: list[Sample] | None
    classes: list[str]
    report: Report


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
    task: Task[Any], steps: Steps, pool: WorkerPool, report: Report, *, keep: bool = False
) -> Datasets:
    """Read all sets, split off what the configuration asks for, and fill and write the report.

    keep: what is read of large sets is kept beside the report, and read from there where nothing has changed.

    Raises DataError for a folder that is missing, a set without samples, or annotations that no job can use.
    """
    dataset = task.config.dataset
    folders = find_folders(dataset)
    annotate = task.annotations(folders.train)
    try:
        with steps(first_step(dataset)) as advance:
            train = _read("train", folders.train, annotate, pool, advance, report, keep)
            split_valid, split_test = [], []  # type: list[Sample], list[Sample]
            if dataset.valid_share or dataset.test_share:
                train, split_valid, split_test = split(
                    train, folders.train, task.groups, dataset.valid_share, dataset.test_share
                )
        others: dict[str, list[Sample]] = {"valid": split_valid, "test": split_test}
        for name, folder, step in (
            ("valid", folders.valid, Step.LOAD_VALID_DATA),
            ("test", folders.test, Step.LOAD_TEST_DATA),
        ):
            if folder is not None:
                with steps(step) as advance:
                    others[name] = _read(name, folder, annotate, pool, advance, report, keep)
            elif others[name]:
                report.add(name, FolderReport.split_off(folders.train, len(others[name])))
        classes = task.classes(folders.train, [train, others["valid"], others["test"]])
        for name, samples in {"train": train, **others}.items():
            if samples:
                report.summarise(name, task.summary(samples, classes))
    finally:
        report.write()
    return Datasets(train, others["valid"] or None, others["test"] or None, classes, report)


def _read(
    name: str,
    folder: Path,
    annotate: Annotate,
    pool: WorkerPool,
    advance: Callable[[float], None],
    report: Report,
    keep: bool,
) -> list[Sample]:
    """The samples of the set `name`; the report has its folder also where nothing is left of it."""
    try:
        samples, found = read_folder(
            folder, annotate, pool, advance, report.cache_file(name) if keep else None
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
