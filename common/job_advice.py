"""What a job says at its end about its figures: in the log, in status.json and in the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from common.advice import Advice, Facts, advise, images_by_class
from common.errors import JobError
from common.export.outputs import DATA_REPORT
from common.files import read_file
from common.job_report import aside
from common.job_state import Job
from common.language import spoken
from common.networks.pretrained import models_folder, present
from common.reporting.progress import curves

log = logging.getLogger("visualtl")

_DATA_LIMIT = 64 << 20


def give_advice(
    job: Job, best: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]
) -> list[Advice]:
    """What the figures mean and what would help; in status.json too.

    best, documents: as `common.job_report.write_report` takes them.
    """
    advice: list[Advice] = []
    with aside("advice"):
        advice = advise(_facts(job, best, documents))
        job.status.update(advice=[piece.entry(spoken()) for piece in advice])
    return advice


def tell(advice: list[Advice]) -> None:
    """Say it in the log."""
    for piece in advice:
        log.info("%s", piece.entry(spoken())["text"])


def _facts(job: Job, best: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]) -> Facts:
    task, config, data = job.task, job.task.config, job.data
    drawn = curves(config.log_dir)
    report = json.loads(read_file(config.log_dir / DATA_REPORT, _DATA_LIMIT))
    train = report.get("train", {})
    lines = drawn.get("learning_rate") or [(0, 0.0)]
    watched = drawn.get(f"valid/{best['name']}", [])
    document = documents.get("valid", {})
    return Facts(
        does=task.does,
        metric=best["name"],
        curve=watched,
        steps=max(lines[-1][0], watched[-1][0] if watched else 0),
        epochs=config.train.epochs,
        minutes=config.train.minutes,
        images=len({sample.image for sample in data.train}),
        by_class=images_by_class(train),
        valid=len(data.valid or ()),
        document=document,
        reported=document.get("reported"),
        left_out=sum(len(entry.get("left_out") or ()) for entry in map(report.get, documents) if entry)
        + len(train.get("left_out") or ()),
        inputs=task.input_figures(data.train),
        score_thresh=float(getattr(config.valid, "score_thresh", 0.0)),
        pretrained=_began_with_parameters(job),
        random=_began_at_random(job),
        shape=task.shape,
    )


def _began_with_parameters(job: Job) -> bool:
    """Whether what was trained knew images before its first step; one that is resumed began where it first did."""
    return job.prepared.loaded or bool(job.task.config.pretrained())


def _began_at_random(job: Job) -> bool:
    """Whether random parameters were trained though others are here."""
    config = job.task.config
    if _began_with_parameters(job):
        return False
    for name in config.possible_parameters():
        try:
            if present(name, models_folder()) is not None:
                return True
        except JobError:
            continue
    return False
