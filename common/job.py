"""A job from its command line to its exit status: what happens, in which order, and what is said.

    argv → configuration → samples → loader → training → best checkpoint → predictions → exported model

`main` owns what surrounds a job (command line, log_dir, endings); `run` is the job: read it top to bottom.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.command_line import Options, parse
from common.config.keys import one_line
from common.config.sections import JobConfig, read_configuration, with_model
from common.data.report import Report
from common.datasets import Datasets, first_step, load_datasets
from common.engine.devices import check_gpus, contexts, load_mxnet, processors, visible_gpus
from common.errors import ConfigurationError, JobError
from common.files import write_json
from common.loading.loader import Loader
from common.processes.pool import WorkerPool
from common.reporting.endings import ending, fail_before, watch_signals
from common.reporting.lock import lock
from common.reporting.log import open_log
from common.reporting.progress import Progress, Step, earlier_points
from common.reporting.server import ProgressServer, archive_old_events
from common.reporting.status import Status
from common.task import Evaluation, Model, Task
from common.training.checkpoint import read_checkpoint

log = logging.getLogger("visualtl")

DATA_REPORT = "data_report.json"
RESULT = "{}_data_result.json"
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
        return fail_before(error, None if options.check else options.config)
    if options.check:
        from common.check import check

        return check(config, options, functools.partial(_task, task))
    try:
        with lock(config.log_dir):
            open_log(config.log_dir)
            status = Status(config.log_dir)
            with ending(status, config.train.batch_size):
                watch_signals(status)
                run(config, options, task, status)
            status.close()
    except JobError as error:  # log_dir itself cannot be used
        return fail_before(error, options.config)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@dataclass(frozen=True)
class Job:
    """What a running job has at hand: what it trains, on which devices, and who is told how far it is."""

    task: Task[Any]
    devices: Sequence[Any]
    precision: str
    pool: WorkerPool
    progress: Progress
    status: Status

    @contextmanager
    def step(self, which: Step) -> Iterator[Callable[[float], None]]:
        """A step of the job; the block gets the function that tells poller and status.json how far it is."""
        self.status.update(state=_STATES.get(which, "loading"), step=which, progress=0.0)
        with self.progress.step(which) as advance:

            def both(fraction: float) -> None:
                advance(fraction)
                self.status.update(progress=fraction)

            yield both
        self.status.update(progress=1.0)


def run(config: JobConfig, options: Options, task_name: str, status: Status) -> None:
    """The job. Raises JobError where it cannot go on."""
    with ExitStack() as stack:
        check_gpus(config.gpus, visible_gpus())
        earlier = earlier_points(config.log_dir) if options.resume else []
        if not options.resume:
            archive_old_events(config.log_dir)
        server = stack.enter_context(ProgressServer(config.log_dir, options.port))
        progress = Progress(config.log_dir, server.publish)
        stack.callback(progress.close)
        progress.restore(earlier)
        progress.begin(first_step(config.dataset))  # pollers have an answer before MXNet is up
        pool = WorkerPool(min(config.train.num_workers, processors()))
        stack.callback(pool.close)
        log.info("Progress: http://127.0.0.1:%d/ (every address of this machine)", server.port)

        load_mxnet()
        task = _task(task_name, config)
        from common.training import resume

        saved = resume.read_state(config, task.name) if options.resume else None
        # A training that is resumed has long begun with what --load names.
        load = options.load if saved is None else None
        checkpoint = read_checkpoint(load, task.name, resume.CHECKPOINT_KEYS) if load else saved
        _remove_old_outputs(config.log_dir, keep_state=options.resume)
        if checkpoint:
            task = _task(task_name, with_model(config, checkpoint["model"]))
            log.info("The model is that of the checkpoint: %s", one_line(str(checkpoint["model"])))
        devices = contexts(config.gpus)
        job = Job(task, devices, task.precision(on_gpu=bool(config.gpus)), pool, progress, status)

        data = load_data(job, resume.trained_images(checkpoint))
        _seed(config.train.seed)
        model = task.build(data.classes, devices, checkpoint)
        if checkpoint is None:
            task.begin(model, data.train)
        best = train(job, model, data, saved, loaded=saved["loaded"] if saved else load is not None)
        predict_and_write(job, model, data)
        with job.step(Step.EXPORT):
            from common.export.model_files import export_model

            for path in export_model(model, config.log_dir, task.shape, best):
                log.info("Exported: %s", path)
        log.info("Finished: results are in %s", config.log_dir)
        status.update(state="finished")
        _linger(options.linger)


def load_data(job: Job, trained: Collection[int]) -> Datasets:
    """Read the sets, and say what there is. trained: marks of the images that the model was trained on before."""
    report = Report(job.task.config.log_dir / DATA_REPORT)
    data = load_datasets(job.task, job.step, job.pool, report, keep=True, trained=trained)
    if data.classes:
        log.info("Classes: %s", one_line(", ".join(data.classes)))
    if data.valid is None:
        log.info(
            "There is no validation set: the latest epoch counts as the best, and early stopping has nothing to watch"
        )
    return data


def train(
    job: Job, model: Model, data: Datasets, saved: dict[str, Any] | None, *, loaded: bool
) -> dict[str, Any]:
    """Train, and leave the best parameters in the model. Returns name, value and epoch of the best metric.

    saved: the training state to go on from. loaded: the training began with a checkpoint given with --load.
    """
    from common.engine.parameters import set_parameters
    from common.engine.schedule import Schedule
    from common.training import hooks as around
    from common.training import resume
    from common.training.estimator import Estimator, TrainingState

    task, config = job.task, job.task.config
    keys = config.train
    estimator = Estimator(
        model,
        job.devices,
        task.optimizer(),
        precision=job.precision,
        limit=task.limit(),
        compiled=task.compiled(),
        ema_decay=keys.ema_decay,
        from_average=task.from_average,
    )
    with ExitStack() as stack:
        loader = stack.enter_context(
            Loader(
                data.train,
                task.training_transform(data.train),
                job.pool,
                batch_size=keys.batch_size,
                shapes=task.training_shapes(),
                seed=keys.seed,
                training=True,
                order=task.training_order(data.train),
                last=task.final_transform(data.train),
            )
        )
        valid = stack.enter_context(_evaluation_loader(job, data.valid)) if data.valid else None
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
            soft_steps=0 if keys.warmup_epochs else task.soft_steps,
            first_step=first * state.steps,
        )

        def evaluate() -> Evaluation:
            assert valid is not None
            with estimator.averaged():
                found = estimator.predict(valid)
            return task.evaluate(*_paired(data.valid or [], found), model)

        def evaluate_best() -> Evaluation:
            """Of the best epoch's parameters; those that are being trained stay what they are."""
            assert valid is not None
            now = estimator.parameters()
            checkpoint = read_checkpoint(
                config.log_dir / resume.BEST_CHECKPOINT, task.name, resume.CHECKPOINT_KEYS
            )
            set_parameters(model.network, checkpoint["parameters"])
            found = estimator.predict(valid)
            set_parameters(model.network, now)
            return task.evaluate(*_paired(data.valid or [], found), model)

        sets = resume.state_of_sets(data.train, data.valid, data.trained)

        def write(path: Path, state: TrainingState) -> None:
            resume.write_state(path, task, model, estimator, hooks, state, loaded=loaded, sets=sets)

        best = resume.Checkpoints(config.log_dir, write, task.metric, job.status, validated=valid is not None)
        hooks: list[around.Hook] = [
            around.Bar(),
            around.LogLines(keys.log_interval),
            around.Curves(job.progress),
        ]
        with job.step(Step.TRAIN) as advance:
            hooks.append(around.Watch(advance, job.status))
            hooks.append(around.Problems({"train": loader}, data.report))
            if valid is not None:
                hooks.append(around.Validation(evaluate, config.valid.interval, task.metric, job.progress))
                hooks.append(
                    around.EarlyStopping(
                        keys.early_stop_patience,
                        keys.early_stop_min_delta,
                        task.early_stop_baseline,
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
        checkpoint = read_checkpoint(
            config.log_dir / resume.BEST_CHECKPOINT, task.name, resume.CHECKPOINT_KEYS
        )
        set_parameters(model.network, checkpoint["parameters"])
    return {"name": task.metric, "value": None if math.isnan(best.value) else best.value, "epoch": best.epoch}


def predict_and_write(job: Job, model: Model, data: Datasets) -> None:
    """Predict validation and test set with what is going to be exported, in float32, and write the result files."""
    from common.engine.graph import inference_graph
    from common.training.estimator import predict

    graph = inference_graph(model.inference_block())
    for name, samples, which in (
        ("valid", data.valid, Step.PREDICT_VALID),
        ("test", data.test, Step.PREDICT_TEST),
    ):
        if samples is None:
            continue
        with job.step(which) as advance, _evaluation_loader(job, samples) as loader:
            found = predict(model, graph, job.devices, loader, advance)
            data.report.leave_out(name, loader.problems)
            evaluation, document = job.task.results(*_paired(samples, found), model)
            write_json(job.task.config.log_dir / RESULT.format(name), document)
            figures = {job.task.metric: evaluation.value, **evaluation.curves}
            log.info(
                "%s set: %s",
                {"valid": "Validation", "test": "Test"}[name],
                ", ".join(f"{key}={value:.4f}" for key, value in figures.items()),
            )


def _evaluation_loader(job: Job, samples: Sequence[Any]) -> Loader:
    return Loader(
        samples,
        job.task.evaluation_transform(),
        job.pool,
        batch_size=job.task.config.train.batch_size,
        shapes=lambda epoch, batch: job.task.shape,
        training=False,
    )


def _paired(samples: Sequence[Any], found: dict[int, Any]) -> tuple[list[Any], list[Any]]:
    """Samples that were predicted, and their predictions."""
    indices = sorted(found)
    return [samples[index] for index in indices], [found[index] for index in indices]


def _task(name: str, config: JobConfig) -> Task[Any]:
    module, _, attribute = name.partition(":")
    task: Task[Any] = getattr(importlib.import_module(module), attribute)(config)
    return task


def _seed(seed: int) -> None:
    """Parameters begin the same in every run; everything else that is random has its own generator."""
    import mxnet as mx
    import numpy as np

    mx.random.seed(seed)
    np.random.seed(seed)  # MXNet's initialisers draw from it


def _remove_old_outputs(log_dir: Path, keep_state: bool) -> None:
    """Results of an earlier run in the same folder must not pass for this run's. Its checkpoint stays: --load may name
    it, and the first validation of this run replaces it."""
    for name in ("valid", "test"):
        (log_dir / RESULT.format(name)).unlink(missing_ok=True)
    names = {path.name.removesuffix("-symbol.json") for path in log_dir.glob("*-symbol.json")}
    names |= {path.name.removesuffix("-0000.params") for path in log_dir.glob("*-0000.params")}
    for path in log_dir.iterdir():
        if path.suffix in (".json", ".params") and path.name.rpartition("-")[0] in names:
            path.unlink()
    (log_dir / "model.json").unlink(missing_ok=True)
    for path in log_dir.glob(".*.part"):  # of a job that was killed while it wrote
        path.unlink()
    if not keep_state:
        (log_dir / "training_state.pkl").unlink(missing_ok=True)


def _linger(seconds: float) -> None:
    """The progress stays up for pollers that come seldom."""
    if seconds > 0:
        log.info("The progress page stays up for %g s", seconds)
        time.sleep(seconds)
