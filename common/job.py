"""A job from its command line to its exit status: what happens, in which order, and what is said.

    argv → configuration → samples → loader → training → best checkpoint → predictions → exported model

`main` owns what surrounds a job (command line, log_dir, endings); `run` is the job: read it top to bottom. Its longer
parts are `common.prepare`, `common.job_training`, `common.job_results` and `common.job_report`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from common.config.command_line import Options, parse
from common.config.sections import JobConfig, read_configuration
from common.data.report import Report
from common.datasets import Datasets, Steps, first_step
from common.engine.devices import processors, visible_gpus
from common.engine.engine import Engine
from common.errors import ConfigurationError, JobError, LogDirNameError, one_line
from common.export.outputs import DATA_REPORT, remove_outputs
from common.job_report import show_configuration, write_report
from common.job_results import export, predict_and_write
from common.job_state import Job
from common.job_training import train
from common.predictor import Predictor
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.reporting import supervisor, warnings
from common.reporting.endings import ending, explain, fail_before, finish, watch_signals
from common.reporting.lock import lock
from common.reporting.log import open_log
from common.reporting.log_dir import check_names
from common.reporting.progress import Progress, Step, earlier_points
from common.reporting.provenance import write_run
from common.reporting.server_process import ProgressServer, archive_old_events, check_token
from common.reporting.status import Status
from common.task import Model, Task

log = logging.getLogger("visualtl")

_STATES = {
    Step.TRAIN: "training",
    Step.PREDICT_VALID: "predicting",
    Step.PREDICT_TEST: "predicting",
    Step.EXPORT: "exporting",
}


def main(
    config_class: type[JobConfig], task: str, description: str, argv: Sequence[str] | None = None
) -> int:
    """Run the job that the command line asks for and return its exit status.

    task: "module:class", imported when the progress server is on its way. Every failure is one line on standard error
    and, where log_dir can be written, in estimator.log and status.json.
    """
    options = parse(config_class, sys.argv[1:] if argv is None else argv, description)
    try:
        ignored = ("model",) if options.load else ()  # the checkpoint says which network
        config = read_configuration(config_class, options.config, options.overrides, ignored)
        check_token(config.log_dir)
    except ConfigurationError as error:
        return fail_before(error, None if options.check else error.log_dir, options.log_format)
    if options.check:
        from common.check import check

        return check(config, options, task)
    try:
        with lock(config.log_dir):
            check_names(config.log_dir)
            supervisor.tell(log_dir=str(config.log_dir.resolve()), log_format=options.log_format)
            open_log(config.log_dir, options.log_format)
            status = Status(config.log_dir)
            with ending(status, config.train.batch_size):
                watch_signals(status)
                run(config, options, task, status)
    except LogDirNameError as error:
        return fail_before(error, config.log_dir, options.log_format)
    except (JobError, OSError) as error:  # log_dir itself cannot be used
        return fail_before(explain(error), None, options.log_format)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run(config: JobConfig, options: Options, task_name: str, status: Status) -> None:
    """The job. Raises JobError where it cannot go on."""
    warnings.forget()
    with ExitStack() as stack:
        earlier = earlier_points(config.log_dir) if options.resume else []
        if not options.resume:
            archive_old_events(config.log_dir)
        server = stack.enter_context(
            ProgressServer(
                config.log_dir, options.port, options.host, options.allow_hosts, options.stuck_after
            )
        )
        status.listen(server.inform)
        progress = Progress(config.log_dir, server.publish)
        stack.callback(progress.close)
        progress.restore(earlier)
        progress.begin(first_step(config.dataset))  # pollers have an answer before MXNet is up
        pool = WorkerPool(
            min(config.train.num_workers, options.threads or processors()),
            lambda count: status.update(worker_restarts=count),
        )
        stack.callback(pool.close)
        log.info("Progress: %s", server.address)

        steps = _steps(progress, status)
        report = Report(config.log_dir / DATA_REPORT, lambda counts: status.update(images_left_out=counts))
        prepared = prepare(config, options, task_name, pool=pool, steps=steps, report=report, keep=True)
        assert prepared.data is not None
        assert prepared.devices is not None
        assert prepared.recipe is not None
        job = Job(prepared, prepared.data, prepared.devices, prepared.recipe, pool, progress, status, steps)
        _say(job.data)
        model = prepared.build(job.devices)
        remove_outputs(config.log_dir, model.name, list(model.further_exports()), keep_state=options.resume)
        _write_run(job)
        engine = _engine(job, model)
        predictor = _predictor(job.task, model, engine)
        show_configuration(config, progress)
        best = train(job, model, engine, predictor)
        documents = predict_and_write(job, predictor, job.task.evaluator(model, job.data.valid or ()))
        with steps(Step.EXPORT):
            export(job, model, predictor, best, documents)
            write_report(config, model, best, documents, progress)
        warnings.repeat()
        log.info("Finished: results are in %s", config.log_dir)
        finish(status)
        _linger(options.linger)


def _steps(progress: Progress, status: Status) -> Steps:
    """A step of the job, told to pollers and in status.json; the block gets the function that says how far it is."""

    @contextmanager
    def step(which: Step) -> Iterator[Callable[[float], None]]:
        status.update(state=_STATES.get(which, "loading"), step=which, progress=0.0)
        with progress.step(which) as advance:

            def both(fraction: float) -> None:
                advance(fraction)
                status.update(progress=fraction)

            yield both
        status.update(progress=1.0)

    return step


def _say(data: Datasets) -> None:
    if data.classes:
        log.info("Classes: %s", one_line(", ".join(data.classes)))
    if data.valid is None:
        log.info(
            "There is no validation set: the latest epoch counts as the best, and early stopping has nothing to watch"
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
    device = {"gpus": gpus, "precision": job.recipe.precision}
    write_run(config.log_dir, config.model_dump(mode="json"), fingerprints, device)


def _engine(job: Job, model: Model) -> Engine:
    """What computes: the steps of the training, and predictions with the parameters that the model has at the time."""
    from common.engine.mxnet_engine import MXNetEngine

    recipe = job.recipe
    return MXNetEngine(
        model.blocks(),
        job.devices,
        recipe.optimizer,
        precision=recipe.precision,
        limit=recipe.limit,
        compiled=recipe.compiled,
        ema_decay=job.task.config.train.ema_decay,
    )


def _predictor(task: Task[Any], model: Model, engine: Engine) -> Predictor:
    return Predictor(task.resize, task.shape, engine.predict, task.decoder(model), task.region())


def _linger(seconds: float) -> None:
    """The progress stays up for pollers that come seldom."""
    if seconds > 0:
        log.info("The progress page stays up for %g s", seconds)
        time.sleep(seconds)
