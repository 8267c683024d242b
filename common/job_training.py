"""The training of a job: what is put together for it, and the best parameters at its end."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.engine.engine import Engine
from common.evaluator import Evaluation
from common.job_report import show_pictures
from common.job_state import Job, paired
from common.loading.loader import Loader
from common.predictor import Predictor
from common.reporting.progress import Step
from common.task import Model

log = logging.getLogger("visualtl")


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
            pairs = paired(valid.samples, predictions)
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
            return evaluator.evaluate(*paired(valid.samples, predictions))

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
