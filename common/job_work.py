"""The work of a job, in its order: read `work` top to bottom. Its longer parts are `common.prepare`,
`common.job_training`, `common.job_results` and `common.job_report`."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from typing import Any

from common.config.command_line import Options
from common.config.sections import JobConfig
from common.data.report import Report
from common.datasets import Datasets
from common.engine.devices import visible_gpus
from common.engine.engine import Engine
from common.engine.opening import open_engine, open_inference
from common.errors import one_line
from common.export.outputs import DATA_REPORT, remove_outputs
from common.job_advice import give_advice, tell
from common.job_report import show_configuration, write_report
from common.job_results import export, predict_and_write
from common.job_state import Job, timed
from common.job_training import train
from common.predictor import Predictor
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.ranks.ranks import Ranks
from common.reporting.progress import Progress, Step
from common.reporting.provenance import write_run
from common.reporting.status import Status
from common.reporting.warnings import warn
from common.steps import steps_of
from common.task import Model, Task

log = logging.getLogger("visualtl")

# Images by which a BatchNorm should go at least. ImageNet's error with so many is that with 32, and 1.2 points above it
# with half as many ("Group Normalization", Wu & He 2018, table 2); benchmarks/QUALITY.md has figures of ranks.
_FEW_ROWS = 16


def work(
    config: JobConfig,
    options: Options,
    task_name: str,
    pool: WorkerPool,
    progress: Progress,
    status: Status,
    ranks: Ranks,
) -> None:
    """From the sets to results and model; of ranks other than the first, their part in it. task_name: "module:class".
    Raises JobError where it cannot go on."""
    steps = steps_of(progress, status)
    report = Report(
        config.log_dir / DATA_REPORT,
        lambda counts: status.update(images_left_out=counts),
        written=ranks.first,
    )
    prepared = prepare(
        config, options, task_name, pool=pool, steps=steps, report=report, keep=ranks.first, ranks=ranks
    )
    prepared = prepared.fitted(pool)
    devices, data = prepared.devices, prepared.data
    assert data is not None
    assert devices is not None
    _say(data)
    # The first rank of a machine fetches pretrained parameters where they are missing.
    model = ranks.in_turn(lambda: prepared.build(devices))
    if prepared.checkpoint is None:
        arithmetic = partial(open_inference, prepared.engine, contexts=devices, gpus=config.gpus, ranks=ranks)
        prepared = prepared.settled(
            prepared.task.look_first(model, data.train, arithmetic, pool, ranks, status.update)
        )
    config = config.model_copy(update={"train": prepared.task.config.train})
    assert prepared.recipe is not None
    job = Job(prepared, data, devices, prepared.recipe, pool, progress, status, steps, ranks)
    _tell_of_few_rows(job, model)
    engine = _engine(job, model)
    if ranks.first:
        remove_outputs(config.log_dir, model.name, list(model.further_exports()), keep_state=options.resume)
        _write_run(job)
    predictor = _predictor(job.task, model, engine)
    show_configuration(config, progress)
    best = train(job, model, engine, predictor)
    with timed("predictions"):
        evaluator = job.task.evaluator(model, job.data.valid or ())
        documents, predicted = predict_and_write(job, predictor, evaluator)
    if not ranks.first:
        return
    with steps(Step.EXPORT):
        with timed("export"):
            export(job, model, predictor, best, documents, predicted)
        with timed("report"):
            advice = give_advice(job, best, documents)
            write_report(config, model, best, documents, progress, advice)
    tell(advice)


def _say(data: Datasets) -> None:
    if data.classes:
        log.info("Classes: %s", one_line(", ".join(data.classes)))
    if data.valid is None:
        log.info(
            "There is no validation set: the latest epoch counts as the best, and early stopping has nothing to watch"
        )


def _tell_of_few_rows(job: Job, model: Model) -> None:
    """Warn where BatchNorm goes by so few images that it costs accuracy."""
    from common.networks.base_networks import goes_by_batch

    config = job.task.config
    parts = max(job.ranks.size, len(job.devices))
    rows = config.train.batch_size // parts
    if parts == 1 or rows >= _FEW_ROWS or config.whole_batch_norm or not goes_by_batch(model.network):
        return
    what = "ranks" if job.ranks.size > 1 else "GPUs"
    warn(
        f"train.batch_size {config.train.batch_size} leaves each of {parts} {what} {rows} images for its BatchNorms, "
        f"which below {_FEW_ROWS} learn less well than one that sees the whole batch; model.syncbn true lets them see "
        "it, or take a larger batch"
    )


def _write_run(job: Job) -> None:
    from common.training.resume import files_of

    data, config = job.data, job.task.config
    sets = {"train": data.train, "valid": data.valid, "test": data.test}
    fingerprints: dict[str, Any] = {
        name: {"samples": len(samples), "fingerprint": files_of(samples)}
        for name, samples in sets.items()
        if samples is not None
    }
    fingerprints["images"] = hashlib.sha256(data.trained.tobytes()).hexdigest()
    gpus = [str(gpu) for gpu in visible_gpus() if gpu.index in config.gpus]
    device: dict[str, Any] = {"engine": job.prepared.engine, "gpus": gpus, "precision": job.recipe.precision}
    if job.ranks.size > 1:
        device["ranks"] = job.ranks.size
    write_run(config.log_dir, config.model_dump(mode="json"), fingerprints, device)


def _engine(job: Job, model: Model) -> Engine:
    """What computes: the steps of the training, and predictions with the parameters that the model has at the time."""
    recipe, config = job.recipe, job.task.config
    return open_engine(
        job.prepared.engine,
        model.blocks(),
        job.devices,
        config.gpus,
        recipe.optimizer,
        precision=recipe.precision,
        limit=recipe.limit,
        compiled=recipe.compiled,
        ema_decay=config.train.ema_decay,
        ema_age=recipe.ema_age,
        ranks=job.ranks,
        synchronised=config.whole_batch_norm,
    )


def _predictor(task: Task[Any], model: Model, engine: Engine) -> Predictor:
    return Predictor(task.resize, task.shape, engine.predict, task.decoder(model), task.region())
