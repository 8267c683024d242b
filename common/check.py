"""`--check`: read everything that a job reads, every image to its last pixel, and train nothing.

What was found stands in `check_report.json` in log_dir, and nothing else is written: files of an earlier run, or of one
that is running there, stay as they are. No port is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from common.config.command_line import Options
from common.config.sections import JobConfig
from common.data.figures import listed
from common.data.problems import Problem
from common.data.report import Report
from common.datasets import Datasets
from common.engine.devices import contexts, processors
from common.errors import DataError, FetchError, JobError
from common.images.decoding import ImageError, decode
from common.networks.pretrained import OR_RANDOM, fetchable, models_folder, present, published
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.reporting import warnings
from common.reporting.endings import explain
from common.reporting.log import bar, last_words, open_console
from common.reporting.log_dir import check_names
from common.reporting.progress import Step
from common.set_folders import WORDS
from common.task import Task

log = logging.getLogger("visualtl")

CHECK_REPORT = "check_report.json"
_SETS = ("train", "valid", "test")
_MOST_TOLD = 50

# Words for those keys of the report that do not explain themselves.
_KEYS_IN_WORDS = {
    "anchor_iou": "best anchor's overlap with an object (IoU)",
    "area": "area (share of the image)",
    "height": "height (pixels)",
    "objects_without_anchor": "objects that no anchor overlaps by half",
    "places_unknown": "places that are neither object nor background",
    "width": "width (pixels)",
}


def check(config: JobConfig, options: Options, task_name: str) -> int:
    """Look at everything that the job needs, say what there is, and return the exit status.

    It is 0 if the job could start here; otherwise the first reason why it could not is the last line of standard error.
    task_name: "module:class".
    """
    open_console(options.log_format)
    warnings.forget()
    report = Report(config.log_dir / CHECK_REPORT)
    reasons: list[JobError] = []
    try:
        config.log_dir.mkdir(parents=True, exist_ok=True)
        report.write()  # before everything that takes long
        _look(config, options, task_name, report, reasons)
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
    warnings.repeat()
    if reasons:
        for reason in reasons[1:]:
            log.error("%s", reason)
        last_words(reasons[0])
        return reasons[0].exit_status
    log.info("The job could start; the report is %s", config.log_dir / CHECK_REPORT)
    return 0


def _look(
    config: JobConfig, options: Options, task_name: str, report: Report, reasons: list[JobError]
) -> None:
    """Everything behind the configuration; what a job could not start with is added to `reasons`."""

    def attempt() -> AbstractContextManager[None]:
        return _noted(reasons)

    with attempt():
        check_names(config.log_dir)
    with WorkerPool(min(config.train.num_workers, options.threads or processors())) as pool:
        prepared = prepare(
            config, options, task_name, pool=pool, steps=_quiet, report=report, keep=False, attempt=attempt
        )
        if prepared.data:
            with attempt():
                prepared = replace(prepared, data=_look_at_images(prepared.task, prepared.data, pool))
    missing = _look_for_parameters(config, options.load is not None or options.resume, report, reasons)
    if not reasons and not missing:
        with attempt():
            prepared.build(contexts(()))


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


def undecodable(path: str) -> str | None:
    """Why an image cannot be decoded, None if it can be; carried out by workers."""
    try:
        decode(path)
    except ImageError as error:
        return error.reason
    return None


def _look_at_images(task: Task[Any], data: Datasets, pool: WorkerPool) -> Datasets:
    """Decode the images of all sets; those that cannot be are left out."""
    report = data.report
    sets = {name: getattr(data, name) for name in _SETS if getattr(data, name) is not None}
    reasons: dict[str, str | None] = {}
    for name, samples in sets.items():
        paths = list(dict.fromkeys(sample.image for sample in samples))
        with bar(len(paths), f"{name} set") as advance:
            for path, reason in zip(paths, pool.map(undecodable, paths, 8), strict=True):
                reasons[path] = reason
                advance(1)
        report.leave_out(
            name,
            [Problem(path, None, str(reasons[path])) for path in paths if reasons[path]],
        )
        whole = [sample for sample in samples if not reasons[sample.image]]
        if not whole:
            raise DataError(
                f"no image of the {name} set can be decoded; the first: {paths[0]}: {reasons[paths[0]]}"
            )
        sets[name] = whole
        summary = task.summary(whole, data.classes)
        report.summarise(name, {"samples": len(whole), **summary})
        _say(name, len(whole), summary)
    return replace(data, **sets)


def _say(name: str, samples: int, summary: dict[str, Any]) -> None:
    """A set's figures but those that are 0, a line each, and one for each entry of a table such as the classes'."""
    log.info("The %s set: %d samples", name, samples)
    for key, value in summary.items():
        if key == "warnings":
            for warning in value:
                warnings.warn(f"The {WORDS[name]} set: {warning}")
        elif isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            for part, figures in list(value.items())[:_MOST_TOLD]:
                log.info("    %s: %s", part, _told(figures))
            if len(value) > _MOST_TOLD:
                log.info("    ... and %d more in %s", len(value) - _MOST_TOLD, CHECK_REPORT)
        elif value != 0:
            log.info("    %s: %s", _in_words(key), _told(value))


def _in_words(key: str) -> str:
    return _KEYS_IN_WORDS.get(key, key.replace("_", " "))


def _told(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"min", "median", "max"}:
        return f"{value['min']:g} to {value['max']:g}, median {value['median']:g}"
    if isinstance(value, dict):
        return listed([_figure(key, part) for key, part in value.items()], _MOST_TOLD)
    return "none" if value is None else str(value)


def _figure(key: str, value: Any) -> str:
    """A count, whose key may be the name of a class, or a figure of the report."""
    return f"{key if isinstance(value, int) else _in_words(key)} {_told(value)}"


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
                raise FetchError(
                    f"pretrained parameters are missing: put {path.name} into {folder}, {OR_RANDOM}; it cannot be "
                    f"fetched from here: {why_not}"
                )
    report.note("pretrained", entries)
    return missing
