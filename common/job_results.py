"""What a trained model leaves: result files and evaluations of the sets, and the model's own files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.samples import Sample
from common.errors import DataError, one_line
from common.evaluator import Evaluator
from common.export.onnx.proof import chosen, missing
from common.export.outputs import EVALUATION, RESULT
from common.files import write_json
from common.job_report import aside, thresholds
from common.job_state import Job, paired
from common.predictor import Predictor
from common.reporting.progress import Step
from common.reporting.warnings import warn
from common.task import Model

log = logging.getLogger("visualtl")

# Images of a batch when ONNX files are held against MXNet: both then take little memory.
_PROOF_BATCH = 4


def predict_and_write(
    job: Job, predictor: Predictor, evaluator: Evaluator
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Predict validation and test set with what is going to be exported, in float32, and write the result files. Ranks
    share the sets, and the first one writes.

    Returns what is said of each set beyond them, by its name, and predictions by image of those that ONNX files are
    held against MXNet on.
    """
    documents: dict[str, dict[str, Any]] = {}
    proof: dict[str, np.ndarray] = {}
    config, report = job.task.config, job.data.report
    for name, samples, which in (
        ("valid", job.data.valid, Step.PREDICT_VALID),
        ("test", job.data.test, Step.PREDICT_TEST),
    ):
        if samples is None:
            continue
        with (
            job.steps(which) as advance,
            predictor.loader(samples, job.pool, config.train.batch_size, job.ranks) as loader,
        ):
            predictions = predictor.predict(loader, advance)
            if not job.ranks.first:
                continue
            report.leave_out(name, loader.problems)
            if samples is _proven_on(job):
                proof = {
                    samples[i].image: predictions[i] for i in chosen(range(len(samples))) if i in predictions
                }
            pairs = paired(samples, predictions)
            evaluation, document = evaluator.results(*pairs)
            write_json(config.log_dir / RESULT.format(name), document)
            path = config.log_dir / EVALUATION.format(name)
            with aside(path.name):
                documents[name] = evaluator.document(*pairs, name)
                write_json(path, documents[name])
            figures = {evaluator.metric: evaluation.value, **evaluation.curves}
            log.info(
                "%s set: %s",
                {"valid": "Validation", "test": "Test"}[name],
                ", ".join(f"{key}={value:.4f}" for key, value in figures.items()),
            )
    return documents, proof


def _proven_on(job: Job) -> list[Sample]:
    """The set that ONNX files are held against MXNet on."""
    return job.data.valid or job.data.test or job.data.train


def export(
    job: Job,
    model: Model,
    predictor: Predictor,
    best: dict[str, Any],
    documents: Mapping[str, Mapping[str, Any]],
    predicted: Mapping[str, np.ndarray],
) -> None:
    """Write the model's files. best: name, value and epoch of the best metric; documents, predicted: of
    `predict_and_write`."""
    from common.export.model_files import export_model

    config = job.task.config
    for path in export_model(model, job.task, config.log_dir, best, thresholds(documents)):
        log.info("Exported: %s", path)
    if config.export.onnx:
        _export_onnx(job, model, predictor, predicted)


def _export_onnx(job: Job, model: Model, predictor: Predictor, predicted: Mapping[str, np.ndarray]) -> None:
    """Write the model as ONNX, where that can be done; a job is as good without."""
    if lacking := missing():
        log.info("No ONNX files are written, for want of %s", " and ".join(lacking))
        return
    from common.engine.graph import Inference
    from common.engine.inference import DeviceInference
    from common.export.onnx.files import MIRRORED, PLAIN, Images, export_onnx

    predictors = {PLAIN: predictor}
    if MIRRORED in model.further_exports():
        plain = DeviceInference(Inference(model.network), job.devices)
        predictors = {PLAIN: replace(predictor, compute=plain), MIRRORED: predictor}
    samples = chosen(_proven_on(job))
    try:
        with predictor.loader(samples, job.pool, min(len(samples), _PROOF_BATCH)) as loader:
            images = Images.of(loader, predictor.shape)
        known = {}
        if all(name in predicted for name in images.names):
            known[MIRRORED if MIRRORED in predictors else PLAIN] = [predicted[name] for name in images.names]
        paths, problems = export_onnx(job.task.config.log_dir, predictors, images, known)
    except (DataError, OSError) as error:
        paths, problems = [], [f"No ONNX files are written: {one_line(str(error))}"]
    for path in paths:
        log.info("Exported: %s", path)
    for problem in problems:
        warn(problem)
