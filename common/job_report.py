"""What a job leaves for people: evaluations of its sets, report.html, and what TensorBoard's page shows beside curves.

None of it decides how a job ends: what cannot be made is left out, and said.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from common import __version__
from common.advice import Advice
from common.config.sections import JobConfig
from common.data.samples import Sample
from common.errors import one_line
from common.evaluation.pictures import draw, encode_jpeg
from common.evaluation.report import Training, report
from common.export.outputs import DATA_REPORT, REPORT
from common.files import read_file, replacing
from common.images.decoding import decode
from common.language import Words
from common.predictor import Decoder
from common.reporting import summaries
from common.reporting.log import write_traceback
from common.reporting.progress import Progress, curves
from common.reporting.provenance import without_secrets
from common.reporting.warnings import warn
from common.task import Model

log = logging.getLogger("visualtl")

# Longest side of a picture on TensorBoard's page.
_SIDE = 640
_DATA_LIMIT = 64 << 20


@contextmanager
def aside(what: str) -> Iterator[None]:
    """Around something that a job can do without: an error of it is a warning."""
    try:
        yield
    except Exception as error:  # whatever it is, results and model are there
        warn(f"{what} is left out: {one_line(str(error)) or type(error).__name__}")
        write_traceback(traceback.format_exc())


def thresholds(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The best thresholds on the validation set, for `model.json`: overall, and by class; {} for tasks without."""
    document = documents.get("valid")
    if document is None or "best_thresh" not in document["figures"]:
        return {}
    by_class = {name: row["best_thresh"] for name, row in document["by_class"].items()}
    return {"best_thresh": document["figures"]["best_thresh"], "best_thresh_by_class": by_class}


def write_report(
    config: JobConfig,
    model: Model,
    best: Mapping[str, Any],
    documents: Mapping[str, Mapping[str, Any]],
    progress: Progress,
    advice: Sequence[Advice] = (),
) -> None:
    """Write report.html, and show precision over recall on TensorBoard's page."""
    with aside("the precision-recall curves of the progress page"):
        for name, document in documents.items():
            shown = {
                f"{name}/{label}": curve
                for label, curve in document["curves"].get("precision_recall", {}).items()
            }
            if shown:
                progress.add(summaries.precision_recall(shown), 0)
    path = config.log_dir / REPORT
    with aside(path.name):
        training = Training(
            list(_facts(config, model, best)),
            without_secrets(config.model_dump(mode="json")),
            json.loads(read_file(config.log_dir / DATA_REPORT, _DATA_LIMIT)),
            curves(config.log_dir),
            advice=[piece.text for piece in advice],
        )
        page = report(model.name, list(documents.values()), training)
        with replacing(path, "w") as file:
            file.write(page)
        log.info("Report: %s", path)


def _facts(config: JobConfig, model: Model, best: Mapping[str, Any]) -> Iterator[tuple[Words, str]]:
    yield ("Model", "模型"), model.name
    if model.classes:
        yield ("Classes", "类别数"), str(len(model.classes))
    if best["epoch"] is not None and best["value"] is not None:
        yield ("Best epoch", "最佳轮次"), f"{best['epoch']} ({best['name']} {best['value']:.4f})"
    gpus = ", ".join(map(str, config.gpus))
    yield ("Device", "设备"), f"GPU {gpus}" if gpus else "CPU"
    yield ("Command", "命令"), shlex.join(without_secrets(list(sys.orig_argv)))
    yield ("VisualTL", "VisualTL"), __version__


def show_configuration(config: JobConfig, progress: Progress) -> None:
    """The configuration as a text on TensorBoard's page."""
    with aside("the configuration on the progress page"):
        text = json.dumps(without_secrets(config.model_dump(mode="json")), ensure_ascii=False, indent=2)
        progress.add(summaries.text("configuration", text), 0)


def show_pictures(
    progress: Progress,
    decoder: Decoder,
    samples: Sequence[Sample],
    predictions: Sequence[np.ndarray],
    *,
    count: int,
    step: int,
) -> None:
    """`count` samples of a set, the same every time, with predictions on TensorBoard's page."""
    with aside("pictures on the progress page"):
        for number, index in enumerate(
            np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)
        ):
            sample = samples[index]
            drawn = draw(decode(sample.image)[0], decoder.marks(decoder.row(sample, predictions[index])))
            scale = min(1.0, _SIDE / max(drawn.shape[:2]))
            size = [max(1, math.floor(side * scale)) for side in (drawn.shape[1], drawn.shape[0])]
            small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA) if scale < 1 else drawn
            progress.add(summaries.picture(f"valid/{number}", encode_jpeg(small), size[0], size[1]), step)
