"""`--check`: read everything that a job reads, every image to its last pixel, and train nothing.

What was found stands in `check_report.json` in log_dir, and nothing else is written: files of an earlier run, or of one
that is running there, stay as they are. No port is opened.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.config.command_line import Options
from common.config.sections import JobConfig, with_model
from common.data.figures import listed
from common.data.problems import PROBLEMS_LOGGED, Problem
from common.data.report import Report
from common.data.samples import Sample
from common.datasets import Datasets, load_datasets
from common.engine.devices import check_gpus, contexts, load_mxnet, processors, visible_gpus
from common.errors import DataError, JobError, PretrainedError
from common.files import read_file
from common.images.decoding import FILE_LIMIT, ImageError, decode, printable
from common.networks.pretrained import fetchable, models_folder, present, published
from common.processes.pool import WorkerPool
from common.reporting.endings import explain
from common.reporting.log import bar, last_words, open_console
from common.reporting.progress import Step
from common.task import Task
from common.training.checkpoint import read_checkpoint

log = logging.getLogger("visualtl")

CHECK_REPORT = "check_report.json"
_SETS = ("train", "valid", "test")
_MOST_TOLD = 50


def check(config: JobConfig, options: Options, make_task: Callable[[JobConfig], Task[Any]]) -> int:
    """Look at everything that the job needs, say what there is, and return the exit status.

    It is 0 if the job could start here; otherwise the first reason why it could not is the last line of standard error.
    """
    open_console()
    report = Report(config.log_dir / CHECK_REPORT)
    reasons: list[JobError] = []
    try:
        config.log_dir.mkdir(parents=True, exist_ok=True)
        report.write()  # before everything that takes long
        with _noted(reasons):
            check_gpus(config.gpus, visible_gpus())
        load_mxnet()
        _look(config, options, make_task, report, reasons)
        report.note("can_start", not reasons)
        report.note("reasons", [{"kind": reason.kind, "message": str(reason)} for reason in reasons])
        report.write()
    except KeyboardInterrupt:
        last_words("stopped by SIGINT")
        return 130
    except Exception as error:
        if not isinstance(error, (JobError, OSError, MemoryError)):
            log.exception("The place of the error:")
        reasons.insert(0, explain(error))
    if reasons:
        for reason in reasons[1:]:
            log.error("%s", reason)
        last_words(str(reasons[0]))
        return reasons[0].exit_status
    log.info("The job could start; the report is %s", config.log_dir / CHECK_REPORT)
    return 0


def _look(
    config: JobConfig,
    options: Options,
    make_task: Callable[[JobConfig], Task[Any]],
    report: Report,
    reasons: list[JobError],
) -> None:
    """Everything behind the configuration; what a job could not start with is added to `reasons`."""
    from common.training import resume

    task, checkpoint = make_task(config), None
    with _noted(reasons):
        saved = resume.read_state(config, task.name) if options.resume else None
        given = read_checkpoint(options.load, task.name, resume.CHECKPOINT_KEYS) if options.load else None
        checkpoint = saved or given
        if checkpoint:
            task = make_task(with_model(config, checkpoint["model"]))
    with _noted(reasons):
        contexts(config.gpus)
        task.precision(on_gpu=bool(config.gpus))
    data = None
    with _noted(reasons), WorkerPool(min(config.train.num_workers, processors())) as pool:
        data = load_datasets(task, _quiet, pool, report, trained=resume.trained_images(checkpoint))
        data = _look_at_images(task, data, pool)
    loaded = options.load is not None or checkpoint is not None
    missing = _look_for_parameters(config, loaded, report, reasons)
    if data and not reasons and not missing:
        with _noted(reasons):
            task.build(data.classes, contexts(()), checkpoint)


@contextmanager
def _noted(reasons: list[JobError]) -> Iterator[None]:
    """Go on behind the block if it ends with an error of a job."""
    try:
        yield
    except JobError as error:
        reasons.append(error)


@contextmanager
def _quiet(step: Step) -> Iterator[Callable[[float], None]]:
    yield lambda fraction: None


# Images


@dataclass(frozen=True)
class Content:
    """What an image file holds. digest: SHA-1 of its bytes; problem: why it cannot be decoded."""

    digest: str
    problem: str | None


def content(path: str) -> Content:
    """Read and decode an image; carried out by workers."""
    try:
        digest = hashlib.sha1(read_file(path, FILE_LIMIT), usedforsecurity=False).hexdigest()
        decode(path)
    except ImageError as error:
        return Content(digest, error.reason)
    except OSError as error:  # it is gone since it was found
        return Content("", error.strerror or str(error))
    return Content(digest, None)


def _look_at_images(task: Task[Any], data: Datasets, pool: WorkerPool) -> Datasets:
    """Decode the images of all sets: those that cannot be are left out; identical ones are reported."""
    report = data.report
    sets = {name: getattr(data, name) for name in _SETS if getattr(data, name) is not None}
    contents: dict[str, Content] = {}
    for name, samples in sets.items():
        paths = list(dict.fromkeys(sample.image for sample in samples))
        with bar(len(paths), f"{name} set") as advance:
            for path, found in zip(paths, pool.map(content, paths, 8), strict=True):
                contents[path] = found
                advance(1)
        report.leave_out(
            name,
            [Problem(path, None, str(contents[path].problem)) for path in paths if contents[path].problem],
        )
        whole = [sample for sample in samples if not contents[sample.image].problem]
        if not whole:
            raise DataError(
                f"no image of the {name} set can be decoded; the first: {paths[0]}: "
                f"{contents[paths[0]].problem}"
            )
        sets[name] = whole
        summary = task.summary(whole, data.classes)
        report.summarise(name, {"samples": len(whole), **summary})
        _say(name, len(whole), summary)
    identical = find_identical(sets, {path: found.digest for path, found in contents.items()})
    report.note("identical_images", identical)
    _say_identical(identical)
    return replace(data, **sets)


def find_identical(sets: dict[str, Sequence[Sample]], digests: dict[str, str]) -> list[dict[str, Any]]:
    """Groups of image files with the same bytes, those that lie in more than one set first.

    An entry has the files by set, and whether what is annotated differs between them.
    """
    groups: dict[str, dict[str, dict[str, list[np.ndarray]]]] = {}
    for name, samples in sets.items():
        for sample in samples:
            images = groups.setdefault(digests[sample.image], {}).setdefault(name, {})
            images.setdefault(sample.image, []).append(sample.annotation)
    found = []
    for by_set in groups.values():
        annotations = [rows for images in by_set.values() for rows in images.values()]
        if len(annotations) > 1:
            first = [rows.tolist() for rows in annotations[0]]
            differ = any([rows.tolist() for rows in other] != first for other in annotations[1:])
            files = {name: list(images) for name, images in by_set.items()}
            found.append({"files": files, "annotated_differently": differ})
    return sorted(found, key=lambda group: -len(group["files"]))


def _say_identical(identical: Sequence[dict[str, Any]]) -> None:
    between = [group for group in identical if len(group["files"]) > 1]
    if between:
        log.warning(
            "%d images are in more than one set, byte for byte: figures of those sets say too much",
            len(between),
        )
    if len(identical) > len(between):
        log.warning("%d images are in a set more than once, byte for byte", len(identical) - len(between))
    for group in identical[:PROBLEMS_LOGGED]:
        files = [f"{printable(file)} ({name})" for name, files in group["files"].items() for file in files]
        log.warning(
            "Identical%s: %s",
            ", annotated differently" if group["annotated_differently"] else "",
            ", ".join(files),
        )
    if len(identical) > PROBLEMS_LOGGED:
        log.warning("... and %d more in %s", len(identical) - PROBLEMS_LOGGED, CHECK_REPORT)


def _say(name: str, samples: int, summary: dict[str, Any]) -> None:
    """A set's figures, a line each, and one for each entry of a table such as that of the classes."""
    log.info("The %s set: %d samples", name, samples)
    for key, value in summary.items():
        if key == "warnings":
            for warning in value:
                log.warning("The %s set: %s", name, warning)
        elif isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            for part, figures in list(value.items())[:_MOST_TOLD]:
                log.info("    %s: %s", part, _told(figures))
            if len(value) > _MOST_TOLD:
                log.info("    ... and %d more in %s", len(value) - _MOST_TOLD, CHECK_REPORT)
        else:
            log.info("    %s: %s", key.replace("_", " "), _told(value))


def _told(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"min", "median", "max"}:
        return f"{value['min']:g} to {value['max']:g}, median {value['median']:g}"
    if isinstance(value, dict):
        return listed([f"{key} {_told(part)}" for key, part in value.items()], _MOST_TOLD)
    return "none" if value is None else str(value)


# Pretrained parameters


def _look_for_parameters(config: JobConfig, loaded: bool, report: Report, reasons: list[JobError]) -> bool:
    """Say which pretrained files the job begins with and whether they are there; True if one is missing.

    One that is missing here keeps a job from starting only if it cannot be fetched either.
    """
    folder, entries, missing = models_folder(), [], False
    for name in config.pretrained(loaded=loaded):
        with _noted(reasons):
            path = present(name, folder)
            if path is not None:
                state = "present"
            else:
                file = published(name)
                assert file is not None
                path, missing = folder / file.file_name, True
                why_not = fetchable(name)
                state = f"missing: {why_not}" if why_not else "to be fetched"
            log.info("Pretrained parameters: %s: %s", path, state)
            entries.append({"name": name, "file": str(path), "state": state})
            if state.startswith("missing"):
                raise PretrainedError(
                    f"pretrained parameters are missing: put {path.name} into {folder}; it cannot be fetched from "
                    f"here: {why_not}"
                )
    report.note("pretrained", entries)
    return missing
