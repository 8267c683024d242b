"""The training of a job: what is put together for it, and the best parameters at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.engine.engine import Engine
from common.engine.schedule import Schedule
from common.evaluator import Evaluation
from common.export.onnx.proof import IMAGES, missing
from common.job_report import show_pictures
from common.job_state import Job, paired
from common.loading.loader import Loader
from common.predictor import Predictor
from common.reporting.beginning import age
from common.reporting.progress import Step
from common.task import Model
from common.training.pace import Budget, ByTime, Kept, Slowness, Tail

log = logging.getLogger("visualtl")

# So often the network looks at an image that the ONNX files are held against where there is a graph with the mirrored
# image too: twice in that, once in the plain one, and once in MXNet's plain one.
_LOOKS = 4


def train(job: Job, model: Model, engine: Engine, predictor: Predictor) -> dict[str, Any]:
    """Train, and leave the best parameters in the model. Returns name, value and epoch of the best metric."""
    from common.training import hooks as around
    from common.training import resume
    from common.training.estimator import Estimator, TrainingState

    task, recipe, config, data, ranks = job.task, job.recipe, job.task.config, job.data, job.ranks
    saved, loaded = job.prepared.saved, job.prepared.loaded
    keys = config.train
    estimator = Estimator(model, engine)
    first = keys.first_epoch(loaded)
    pace = _pace(job, model, first) if keys.minutes else None
    with ExitStack() as stack:
        loader = stack.enter_context(
            _training_loader(
                job,
                model,
                (lambda epoch: pace.plain(keys.plain_epochs)) if pace else keys.first_plain_epoch.__le__,
            )
        )
        valid = (
            stack.enter_context(predictor.loader(data.valid, job.pool, keys.batch_size, ranks))
            if data.valid
            else None
        )
        state = TrainingState(epochs=keys.epochs, steps=len(loader), start_epoch=first, epoch=first)
        schedule = _schedule(job, first, state.steps)

        evaluator = task.evaluator(model, data.valid or ())

        def evaluate() -> Evaluation:
            assert valid is not None
            with engine.averaged():
                if pace:
                    pace.predicting(0.0)
                predictions = predictor.predict(valid, pace.predicting if pace else None)
            pairs = paired(valid.samples, predictions)
            if ranks.first:
                show_pictures(
                    job.progress, predictor.decoder, *pairs, count=config.valid.pictures, step=state.number
                )
            return ranks.from_first(lambda: evaluator.evaluate(*pairs))

        def evaluate_best() -> Evaluation:
            """Of the best epoch's parameters; those that are being trained stay what they are."""
            assert valid is not None
            now = engine.parameters()
            engine.set_parameters(best_parameters())
            predictions = predictor.predict(valid)
            engine.set_parameters(now)
            pairs = paired(valid.samples, predictions)
            return ranks.from_first(lambda: evaluator.evaluate(*pairs))

        def best_parameters() -> dict[str, np.ndarray]:
            path = config.log_dir / resume.BEST_CHECKPOINT
            return ranks.from_first(lambda: resume.read_given(path, task.name)["parameters"])

        sets = resume.state_of_sets(data.train, data.valid, data.trained)

        def write(path: Path, state: TrainingState) -> None:
            resume.write_state(
                path, task, model, estimator, hooks, state, metric=evaluator.metric, loaded=loaded, sets=sets
            )

        def take_part(path: Path, state: TrainingState) -> None:
            with engine.averaged():  # what rank 0 writes is made by all
                pass

        best = resume.Checkpoints(
            config.log_dir,
            write if ranks.first else take_part,
            evaluator.metric,
            job.status,
            validated=valid is not None,
            kept=ranks.first,
        )
        hooks: list[around.Hook] = [pace] if pace else []
        hooks.append(around.Curves(job.progress))
        if recipe.from_average and keys.ema_decay:
            hooks.append(
                around.FromAverage(
                    engine, (lambda epoch: pace.steps_down()) if pace else schedule.steps_down_at
                )
            )
        if saved:
            share = resume.saved_share(saved, pace) if pace else None
            job.progress.resume_training(replace(state, epoch=saved["epoch"] + 1, share=share).fraction)
        with job.steps(Step.TRAIN) as advance:
            watch = around.Watch(advance, job.status)
            hooks += [watch, around.Bar(), around.LogLines(keys.log_interval, watch.estimate)]
            hooks.append(around.Problems({"train": loader}, data.report))
            if ranks.size > 1:
                hooks.append(around.Speed(ranks, engine, job.status))
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
            if pace:
                hooks.append(Kept(pace))
            if pace and valid is not None:
                _rehearse(pace, predictor, valid)
            if saved:
                changed = resume.take_up(saved, model, estimator, hooks, state, sets)
                if best.epoch == saved["epoch"] and ranks.first:  # it may have been cut off between the two
                    resume.keep_as_best(config.log_dir)
                if changed and valid is not None and best.epoch is not None:
                    resume.measure_anew(hooks, evaluate_best())
            estimator.fit(loader, pace.learning_rate if pace else schedule, hooks, state, keys.seed)
            if state.stop_reason:
                log.info("Stopped early after epoch %d: %s", state.epoch, state.stop_reason)
        if best.epoch is not None:
            engine.set_parameters(best_parameters())
    return {
        "name": evaluator.metric,
        "value": None if math.isnan(best.value) else best.value,
        "epoch": best.epoch,
    }


def _rehearse(pace: ByTime, predictor: Predictor, valid: Loader) -> None:
    batch = next(valid.epoch(0), None)
    if batch is None:  # all of the set's batches are other ranks'
        return

    def predict() -> None:
        outputs = predictor.compute(batch.arrays["image"])
        predictor.decoder.predictions(outputs, batch.arrays["matrix"], batch.shape)

    pace.rehearse(predict)


def _training_loader(job: Job, model: Model, plain: Callable[[int], bool]) -> Loader:
    task, recipe, keys, samples = job.task, job.recipe, job.task.config.train, job.data.train
    plain_transform = recipe.plain_transform(samples) if recipe.plain_transform else None
    return Loader(
        samples,
        model.with_targets(task.training_transform(samples), samples),
        job.pool,
        batch_size=keys.batch_size,
        shapes=recipe.shapes or (lambda epoch, batch: task.shape),
        seed=keys.seed,
        training=True,
        order=recipe.order(samples) if recipe.order else None,
        plain=plain,
        plain_transform=model.with_targets(plain_transform, samples) if plain_transform else None,
        ranks=job.ranks,
    )


def _schedule(job: Job, first: int, steps: int) -> Schedule:
    """The learning rates of epochs from `first` on, of so many steps each."""
    keys = job.task.config.train
    return Schedule(
        keys.lr,
        keys.lr_mode,
        epochs=keys.epochs,
        steps_per_epoch=steps,
        decay=keys.lr_decay,
        decay_epochs=keys.lr_decay_epoch,
        decay_period=keys.lr_decay_period,
        warmup_lr=keys.warmup_lr,
        warmup_epochs=keys.warmup_epochs,
        soft_steps=0 if keys.warmup_epochs else job.recipe.soft_steps,
        first_step=first * steps,
    )


def _pace(job: Job, model: Model, first: int) -> ByTime:
    """What lays the training over the time that the job has."""
    task, data, config = job.task, job.data, job.task.config
    valid, test = len(data.valid or ()), len(data.test or ())
    numbers = sum(math.prod(parameter.shape) for parameter in model.network.collect_params().values())
    mirrored = bool(model.further_exports())
    # Detectors have one with boxes of all positions too, and all those that look at the mirrored image have plain ones.
    files = (1 + (task.does == "detection")) * (1 + mirrored) if config.export.onnx and not missing() else 0
    tail = Tail(
        config.train.batch_size,
        valid,
        test,
        megabytes=4e-6 * numbers,
        files=files,
        proved=min(valid or test or len(data.train), IMAGES) * (_LOOKS if mirrored else 1) if files else 0,
        on_gpu=bool(config.gpus),
    )
    keys = config.train
    borders = [float(keys.first_plain_epoch)]
    if keys.lr_mode == "step" and keys.lr_decay_period:
        borders += range(keys.lr_decay_period, keys.epochs, keys.lr_decay_period)
    elif keys.lr_mode == "step":
        borders += keys.lr_decay_epoch
    return ByTime(
        Budget(keys.minutes * 60.0, age),
        _schedule(job, first, 1),
        tail,
        first=first,
        interval=config.valid.interval,
        borders=borders,
        agree=job.ranks.agree,
        slowness=Slowness(),
    )
