"""The sets of a job: what their folders hold, what is split off, and the report on all of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config.sections import DatasetConfig
from common.data.boxes import objects_of
from common.data.figures import listed
from common.data.formats import txt
from common.data.formats.base import Place
from common.data.hints import sentences
from common.data.labels import numbers_in, with_class_ids, with_labels
from common.data.listing import Listing
from common.data.marks import find_identical, image_marks
from common.data.problems import FolderReport, NoSamples, Problem
from common.data.report import Report
from common.data.samples import Annotate, Labels, Sample, read_folder
from common.data.splits import return_trained, split
from common.errors import DataError
from common.images.decoding import printable
from common.processes.pool import WorkerPool
from common.reporting import warnings
from common.reporting.progress import Step
from common.set_folders import WORDS, SetFolder, find_folders, list_folders, numbered, open_sources
from common.steps import Steps, first_step
from common.task import Task

log = logging.getLogger("visualtl")

_IDENTICAL_LOGGED = 10


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

    Raises DataError for a folder that is missing, a set without samples, two sets of the same samples, a training set
    for detection without any object, or annotations that no job can use.
    """
    dataset = task.config.dataset
    kept = report.cache_file if keep else None
    sources = open_sources(dataset, task.does, list_folders(find_folders(dataset)), kept)
    own = {
        name: Listing.joined(listings)
        for name, parts in sources.items()
        if (listings := [source.listing for source in parts if source.annotated is None])
    }
    if task.does == "detection":
        _say_other_names(dataset, own)
    ours = all(source.annotated is None for parts in sources.values() for source in parts)
    names = task.names(own) if ours else task.label_names(own)
    annotate = task.annotations(own, names)
    labelled = task.does != "landmark" and (not ours or bool(names and dataset.chosen_classes))
    labels = Labels()
    sets: dict[str, list[Sample]] = {}
    absent: Mapping[str, int] = {}
    which = {"train": first_step(dataset), "valid": Step.LOAD_VALID_DATA, "test": Step.LOAD_TEST_DATA}
    try:
        for name, parts in sources.items():
            with steps(which[name]) as advance:
                sets[name] = _read(
                    name, parts, annotate, names, labels, pool, advance, report, keep, labelled
                )
        if ours and not labelled:
            classes = task.classes(own, [sets.get(name, []) for name in WORDS])
        else:
            sets, classes, absent = _settle(task, sources, sets, labels, report)
        marks = image_marks(itertools.chain.from_iterable(sets.values()), pool)
        _keep_apart(sets, marks, report)
        trained = set(trained)
        _say_known(sets, marks, trained)
        everything = sets["train"]
        if dataset.valid_share or dataset.test_share:
            folders = [source.listing.folder for source in sources["train"]]
            sets = _split_off(task, sets, folders, marks, trained, report)
        for name, samples in sets.items():
            summary = task.summary(samples, classes)
            report.summarise(name, summary)
            for sentence in summary.get("warnings", ()):
                warnings.warn(f"The {WORDS[name]} set: {sentence}")
        if task.does == "detection":
            _check_objects(everything, sets["train"], classes, absent, report.problems_of("train"))
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


def _say_other_names(dataset: DatasetConfig, own: Mapping[str, Listing]) -> None:
    """Warn where a classes.txt beside our own texts has names of dataset.classes in another order."""
    given = dataset.chosen_classes or ()
    for folder in dict.fromkeys(root for listing in own.values() for root in listing.roots):
        names = txt.names_beside(Place(str(dataset.data_root), folder))
        moved = [
            f"{name} is {names.index(name)} there and {index} in dataset.classes"
            for index, name in enumerate(given) if name in names and names.index(name) != index
        ]  # fmt: skip
        if moved:
            warnings.warn(
                f"{printable(folder)}: a classes.txt in it or above gives the ids other names than dataset.classes, "
                f"which counts: {listed(moved)}"
            )
            return


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
    folders: Sequence[str],
    marks: Mapping[str, int],
    trained: Collection[int],
    report: Report,
) -> dict[str, list[Sample]]:
    """`sets` with the parts of the training set that the configuration asks for."""
    dataset = task.config.dataset
    samples = sets["train"]
    parts = split(
        samples, list(map(Path, folders)), task.groups, dataset.valid_share, dataset.test_share, marks
    )
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
            report.add(name, FolderReport.split_off(", ".join(folders), len(part)))
        elif share:
            warnings.warn(f"dataset.{name}_size: no image can be spared for a {WORDS[name]} set")
    new = {**sets, **new}
    return {name: new[name] for name in WORDS if name in new}


def _check_objects(
    everything: Sequence[Sample],
    training: Sequence[Sample],
    classes: Sequence[str],
    absent: Mapping[str, int],
    problems: Sequence[Problem],
) -> None:
    """Raise DataError where no image that is trained on shows an object.

    everything: the training set before the split. absent: objects of it by labels that dataset.classes does not name.
    problems: what was left out of it.
    """
    if any(len(objects_of(sample.annotation)) for sample in training):
        return
    if any(len(objects_of(sample.annotation)) for sample in everything):
        raise DataError(
            "no image that is left to train on shows an object: the split took them all for the validation or test "
            "set; give more images, or sets of their own"
        )
    if absent:
        found = listed([f"{label} ({count})" for label, count in absent.items()])
        raise DataError(
            f"no image of the training set shows an object of dataset.classes, which names {listed(list(classes))}; "
            f"its labels name {found}"
        )
    if any(len(sample.annotation) for sample in everything):
        raise DataError(
            "no image of the training set shows an object that counts: all are crowds, difficult, or without area"
        )
    if problems:
        raise DataError(
            f"no image of the training set shows an object: {len(problems)} entries were left out, such as "
            f"{problems[0]}"
        )
    raise DataError("no image of the training set shows an object: all its labels are empty")


def _text(marks: Collection[int]) -> str:
    return " ".join(f"{mark:016x}" for mark in sorted(marks))


def _read(
    name: str,
    sources: Sequence[SetFolder],
    annotate: Annotate,
    names: Sequence[str],
    labels: Labels,
    pool: WorkerPool,
    advance: Callable[[float], None],
    report: Report,
    keep: bool,
    labelled: bool,
) -> list[Sample]:
    """The samples of the set `name`; the report has its folders also where nothing is left of them.

    labelled: ids of our own texts and folders become numbers of labels, as those of other formats are.
    """
    samples: list[Sample] = []
    reports: list[FolderReport] = []
    empty: list[NoSamples] = []
    for index, source in enumerate(sources):
        own = source.annotated is None
        cache_file = report.cache_file(numbered(name, index)) if keep else None
        try:
            folder_samples, told = read_folder(
                Path(source.listing.folder),
                annotate,
                pool,
                _advance_part(advance, index, len(sources)),
                cache_file,
                listing=source.listing,
                names=names if own else (),
                annotated=source.annotated,
                labels=labels,
            )
        except NoSamples as error:
            empty.append(error)
            reports.append(error.report)
            continue
        if own and labelled:
            folder_samples = [with_labels(sample, names, labels) for sample in folder_samples]
        samples += folder_samples
        reports.append(told)
        if told.problems or told.clipped:
            images = source.annotated.images if source.annotated else source.listing.images
            boxes = sum(len(sample.annotation) for sample in folder_samples if sample.annotation.ndim > 1)
            for sentence in sentences(told, boxes, images):
                warnings.warn(f"The {WORDS[name]} set: {sentence}")
    report.add(name, FolderReport.joined(reports))
    if not samples:
        raise empty[0]
    return samples


def _advance_part(advance: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    """`advance` for one of several folders of a set."""
    return lambda share: advance((index + share) / count)


def _settle(
    task: Task[Any],
    sources: Mapping[str, Sequence[SetFolder]],
    sets: Mapping[str, list[Sample]],
    labels: Labels,
    report: Report,
) -> tuple[dict[str, list[Sample]], list[str], dict[str, int]]:
    """Put class ids into the annotations of all sets, and labels on samples that are of one class.

    Returns the sets, the classes, and how many objects of the training set are of no class, by label.
    """
    numbers = list(labels.numbers)
    seen = {name: {numbers[number] for number in numbers_in(samples)} for name, samples in sets.items()}
    ordered = [source.annotated.names for parts in sources.values() for source in parts if source.annotated]
    classes, ids = task.settle(ordered, seen)
    if not numbers:  # keypoints, and sets without any object
        return dict(sets), classes, {}
    names_of = {number: str(label) for label, number in ids.items()} | dict(enumerate(classes))
    settled: dict[str, list[Sample]] = {}
    absent_of: dict[str, dict[str, int]] = {}
    for name, samples in sets.items():
        settled[name], absent = with_class_ids(samples, numbers, ids, names_of)
        absent_of[name] = _say_absent(name, absent)
        if not settled[name]:
            raise DataError(f"the {WORDS[name]} set shows none of dataset.classes: {listed(list(classes))}")
    report.note("absent_classes", {name: counts for name, counts in absent_of.items() if counts})
    return settled, classes, absent_of["train"]


def _say_absent(name: str, absent: Mapping[str, int]) -> dict[str, int]:
    if absent:
        told = listed([f"{label} ({count})" for label, count in absent.items()])
        warnings.warn(
            f"The {WORDS[name]} set: {sum(absent.values())} objects are of classes that dataset.classes does not name, "
            f"and count as absent: {told}"
        )
    return dict(absent)
