"""A job from its command line to its exit status: what happens, in which order, and what is said.

    argv → configuration → samples → loader → training → best checkpoint → predictions → exported model

`main` owns what surrounds a job (command line, log_dir, endings); `run` is the job: read it top to bottom.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.config.command_line import Options, parse
from common.config.keys import one_line
from common.config.sections import JobConfig, read_configuration
from common.data.report import Report
from common.datasets import Datasets, Steps, first_step
from common.engine.devices import processors, visible_gpus
from common.engine.engine import Engine
from common.errors import ConfigurationError, DataError, JobError
from common.evaluator import Evaluation, Evaluator
from common.export.outputs import DATA_REPORT, EVALUATION, RESULT, remove_outputs
from common.files import write_json
from common.job_report import aside, show_configuration, show_pictures, thresholds, write_report
from common.loading.loader import Loader
from common.predictor import Predictor
from common.prepare import Prepared, prepare
from common.processes.pool import WorkerPool
from common.recipe import Recipe
from common.reporting import supervisor, warnings
from common.reporting.endings import ending, explain, fail_before, finish, watch_signals
from common.reporting.lock import lock
from common.reporting.log import open_log
from common.reporting.progress import Progress, Step, earlier_points
from common.reporting.provenance import write_run
from common.reporting.server import ProgressServer, archive_old_events
from common.reporting.status import Status
from common.reporting.warnings import warn
from common.task import Model, Task

log = logging.getLogger("visualtl")

# Images of a batch when ONNX files are held against MXNet: both then take little memory.
_PROOF_BATCH = 8
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
    except ConfigurationError as error:
        return fail_before(error, None if options.check else error.log_dir, options.log_format)
    if options.check:
        from common.check import check

        return check(config, options, task)
    try:
        with lock(config.log_dir):
            supervisor.tell(log_dir=str(config.log_dir.resolve()), log_format=options.log_format)
            open_log(config.log_dir, options.log_format)
            status = Status(config.log_dir)
            with ending(status, config.train.batch_size):
                watch_signals(status)
                run(config, options, task, status)
    except (JobError, OSError) as error:  # log_dir itself cannot be used
        return fail_before(explain(error), None, options.log_format)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@dataclass(frozen=True)
class Job:
    """What a running job has at hand: what it trains on which data, and who is told how far it is."""

    prepared: Prepared
    data: Datasets
    devices: Sequence[Any]
    recipe: Recipe
    pool: WorkerPool
    progress: Progress
    status: Status
    steps: Steps

    @property
    def task(self) -> Task[Any]:
        """What is trained."""
        return self.prepared.task


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
            from common.export.model_files import export_model

            for path in export_model(model, job.task, config.log_dir, best, thresholds(documents)):
                log.info("Exported: %s", path)
            if config.export.onnx:
                _export_onnx(job, model, predictor)
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
    found: dict[str, Any] = {
        name: {"samples": len(samples), "fingerprint": files_of(samples)}
        for name, samples in sets.items()
        if samples is not None
    }
    found["images"] = hashlib.sha256(data.trained.tobytes()).hexdigest()
    gpus = [str(gpu) for gpu in visible_gpus() if gpu.index in config.gpus]
    device = {"gpus": gpus, "precision": job.recipe.precision}
    write_run(config.log_dir, config.model_dump(mode="json"), found, device)


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


def train(job: Job, model: Model, engine: Engine, predictor: Predictor) -> dict[str, Any]:
    """Train, and leave the best parameters in the model. Returns name, value and epoch of the best metric."""
    from common.engine.schedule import Schedule
    from common.training import hooks as around
    from common.training import resume
    from common.training.estimator import Estimator, TrainingState

    task, recipe, config, data = job.task, job.recipe, job.task.config, job.data
    saved, loaded = job.prepared.saved, job.prepared.loaded
    keys = config.train
    estimator = Estimator(model, engine)
    with ExitStack() as stack:
        loader = stack.enter_context(
            Loader(
                data.train,
                task.training_transform(data.train),
                job.pool,
                batch_size=keys.batch_size,
                shapes=recipe.shapes or (lambda epoch, batch: task.shape),
                seed=keys.seed,
                training=True,
                order=recipe.order(data.train) if recipe.order else None,
                last=(keys.first_plain_epoch, recipe.plain_transform(data.train))
                if recipe.plain_transform
                else None,
            )
        )
        valid = (
            stack.enter_context(predictor.loader(data.valid, job.pool, keys.batch_size))
            if data.valid
            else None
        )
        first = keys.first_epoch(loaded)
        state = TrainingState(epochs=keys.epochs, steps=len(loader), start_epoch=first, epoch=first)
        schedule = Schedule(
            keys.lr,
            keys.lr_mode,
            epochs=keys.epochs,
            steps_per_epoch=state.steps,
            decay=keys.lr_decay,
            decay_epochs=keys.lr_decay_epoch,
            decay_period=keys.lr_decay_period,
            warmup_lr=keys.warmup_lr,
            warmup_epochs=keys.warmup_epochs,
            soft_steps=0 if keys.warmup_epochs else recipe.soft_steps,
            first_step=first * state.steps,
        )

        evaluator = task.evaluator(model, data.valid or ())

        def evaluate() -> Evaluation:
            assert valid is not None
            with engine.averaged():
                predictions = predictor.predict(valid)
            pairs = _paired(valid.samples, predictions)
            step = (state.epoch + 1) * state.steps
            show_pictures(job.progress, predictor.decoder, *pairs, count=config.valid.pictures, step=step)
            return evaluator.evaluate(*pairs)

        def evaluate_best() -> Evaluation:
            """Of the best epoch's parameters; those that are being trained stay what they are."""
            assert valid is not None
            now = engine.parameters()
            checkpoint = resume.read_given(config.log_dir / resume.BEST_CHECKPOINT, task.name)
            engine.set_parameters(checkpoint["parameters"])
            predictions = predictor.predict(valid)
            engine.set_parameters(now)
            return evaluator.evaluate(*_paired(valid.samples, predictions))

        sets = resume.state_of_sets(data.train, data.valid, data.trained)

        def write(path: Path, state: TrainingState) -> None:
            resume.write_state(
                path, task, model, estimator, hooks, state, metric=evaluator.metric, loaded=loaded, sets=sets
            )

        best = resume.Checkpoints(
            config.log_dir, write, evaluator.metric, job.status, validated=valid is not None
        )
        hooks: list[around.Hook] = [
            around.Bar(),
            around.LogLines(keys.log_interval),
            around.Curves(job.progress),
        ]
        if recipe.from_average and keys.ema_decay:
            hooks.append(around.FromAverage(engine, schedule))
        if saved:
            job.progress.resume_training(replace(state, epoch=saved["epoch"] + 1).fraction)
        with job.steps(Step.TRAIN) as advance:
            hooks.append(around.Watch(advance, job.status))
            hooks.append(around.Problems({"train": loader}, data.report))
            if valid is not None:
                hooks.append(
                    around.Validation(evaluate, config.valid.interval, evaluator.metric, job.progress)
                )
                hooks.append(
                    around.EarlyStopping(
                        keys.early_stop_patience,
                        keys.early_stop_min_delta,
                        recipe.early_stop_baseline,
                        keys.early_stop_max_value,
                    )
                )
            hooks.append(best)
            if saved:
                changed = resume.take_up(saved, model, estimator, hooks, state, sets)
                if best.epoch == saved["epoch"]:  # it may have been cut off between the two
                    resume.keep_as_best(config.log_dir)
                if changed and valid is not None and best.epoch is not None:
                    resume.measure_anew(hooks, evaluate_best())
            estimator.fit(loader, schedule, hooks, state, keys.seed)
            if state.stop_reason:
                log.info("Stopped early after epoch %d: %s", state.epoch, state.stop_reason)
    if best.epoch is not None:
        checkpoint = resume.read_given(config.log_dir / resume.BEST_CHECKPOINT, task.name)
        engine.set_parameters(checkpoint["parameters"])
    return {
        "name": evaluator.metric,
        "value": None if math.isnan(best.value) else best.value,
        "epoch": best.epoch,
    }


def predict_and_write(job: Job, predictor: Predictor, evaluator: Evaluator) -> dict[str, dict[str, Any]]:
    """Predict validation and test set with what is going to be exported, in float32, and write the result files.

    Returns what is said of each set beyond them, by its name.
    """
    documents: dict[str, dict[str, Any]] = {}
    config, report = job.task.config, job.data.report
    for name, samples, which in (
        ("valid", job.data.valid, Step.PREDICT_VALID),
        ("test", job.data.test, Step.PREDICT_TEST),
    ):
        if samples is None:
            continue
        with (
            job.steps(which) as advance,
            predictor.loader(samples, job.pool, config.train.batch_size) as loader,
        ):
            predictions = predictor.predict(loader, advance)
            report.leave_out(name, loader.problems)
            pairs = _paired(samples, predictions)
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
    return documents


def _export_onnx(job: Job, model: Model, predictor: Predictor) -> None:
    """Write the model as ONNX, where that can be done; a job is as good without."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        log.info("No ONNX files are written: %s is not installed", " and ".join(missing))
        return
    from common.engine.graph import Inference
    from common.engine.inference import DeviceInference
    from common.export.onnx.files import MIRRORED, PLAIN, Images, chosen, export_onnx

    predictors = {PLAIN: predictor}
    if MIRRORED in model.further_exports():
        plain = DeviceInference(Inference(model.network), job.devices)
        predictors = {PLAIN: replace(predictor, compute=plain), MIRRORED: predictor}
    samples = chosen(job.data.valid or job.data.test or job.data.train)
    try:
        with predictor.loader(samples, job.pool, min(len(samples), _PROOF_BATCH)) as loader:
            paths, problems = export_onnx(
                job.task.config.log_dir, predictors, Images.of(loader, predictor.shape)
            )
    except (DataError, OSError) as error:
        paths, problems = [], [f"No ONNX files are written: {one_line(str(error))}"]
    for path in paths:
        log.info("Exported: %s", path)
    for problem in problems:
        warn(problem)


def _paired(samples: Sequence[Any], predictions: dict[int, Any]) -> tuple[list[Any], list[Any]]:
    """Samples that were predicted, and their predictions."""
    indices = sorted(predictions)
    return [samples[index] for index in indices], [predictions[index] for index in indices]


def _linger(seconds: float) -> None:
    """The progress stays up for pollers that come seldom."""
    if seconds > 0:
        log.info("The progress page stays up for %g s", seconds)
        time.sleep(seconds)
