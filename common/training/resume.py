"""What a job needs to go on after it was cut off, written after every epoch.

`training_state.pkl` holds everything that the next epoch depends on. Where the epoch was the best so far,
`best_checkpoint.pkl` is the same file under a second name, so that no epoch is written twice.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from common.config.key_lookup import changeable, leaves
from common.config.sections import JobConfig
from common.data.samples import Sample
from common.engine.engine import MISFITS
from common.errors import CheckpointError, ConfigurationError, DataError, TrainingError
from common.evaluator import Evaluation
from common.files import replacing
from common.reporting import warnings
from common.reporting.status import Status
from common.task import Model, Task
from common.training.checkpoint import read_checkpoint, unusable, write_checkpoint
from common.training.estimator import Estimator, Hook, TrainingState
from common.training.hooks import EarlyStopping
from common.training.pace import ByTime

log = logging.getLogger("visualtl")

TRAINING_STATE = "training_state.pkl"
BEST_CHECKPOINT = "best_checkpoint.pkl"

# What a checkpoint holds beside its kind of task; a training state holds more.
CHECKPOINT_KEYS = ("classes", "model", "configuration", "parameters", "epoch")
_STATE_KEYS = (
    *CHECKPOINT_KEYS,
    "companions",
    "average",
    "optimizer",
    "hooks",
    "multipliers",
    "loaded",
    "files",
    "skipped",
    "stop_reason",
)


class Checkpoints(Hook):
    """Writes the state of the training after every epoch that is due, and keeps the best one under a name of its own.

    The best one has the highest metric; one that is no number never replaces one that is. Without a validation set
    the latest epoch counts as the best. value, epoch: of the best one; None before there is one. kept: whether
    files are written here, and not by another rank.
    """

    def __init__(
        self,
        log_dir: Path,
        write: Callable[[Path, TrainingState], None],
        metric: str,
        status: Status,
        validated: bool,
        kept: bool = True,
    ) -> None:
        self._kept = kept
        self._log_dir = log_dir
        self._write = write
        self._metric = metric
        self._status = status
        self._validated = validated
        self.value = math.nan
        self._tie_break = 0.0
        self.epoch: int | None = None

    def after_epoch(self, state: TrainingState) -> None:
        if not state.due:
            return
        if not self._validated:
            self.value, self.epoch = math.nan, state.epoch
        elif state.evaluation is not None:
            value, tie_break = state.evaluation.value, state.evaluation.tie_break
            if (value, tie_break) > (self.value, self._tie_break) or math.isnan(self.value):
                self.value, self._tie_break, self.epoch = value, tie_break, state.epoch
                log.info("[Epoch %d] Best %s so far: %.4f", state.epoch, self._metric, value)
            self._status.update(
                metric={"name": self._metric, "value": value},
                best_metric={"name": self._metric, "value": self.value, "epoch": self.epoch},
            )
        self._write(self._log_dir / TRAINING_STATE, state)
        if self.epoch == state.epoch and self._kept:
            keep_as_best(self._log_dir)

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "tie_break": self._tie_break, "epoch": self.epoch}

    def restore(self, state: dict[str, Any]) -> None:
        self.value, self._tie_break = float(state["value"]), float(state["tie_break"])
        self.epoch = None if state["epoch"] is None else int(state["epoch"])


def keep_as_best(log_dir: Path) -> None:
    """Let best_checkpoint.pkl be what training_state.pkl is now."""
    temporary = log_dir / f".{BEST_CHECKPOINT}.{os.getpid()}.part"
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed, or a link to elsewhere
        os.link(log_dir / TRAINING_STATE, temporary)
    except OSError:  # some file systems have no second names
        with replacing(log_dir / BEST_CHECKPOINT) as target, open(log_dir / TRAINING_STATE, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
        return
    try:
        os.replace(temporary, log_dir / BEST_CHECKPOINT)
    except OSError as error:
        error.filename = str(log_dir / BEST_CHECKPOINT)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_state(
    path: Path,
    task: Task[Any],
    model: Model,
    estimator: Estimator,
    hooks: Sequence[Hook],
    state: TrainingState,
    *,
    metric: str,
    loaded: bool,
    sets: Mapping[str, Any],
) -> None:
    """Write all that the next epoch depends on. sets: see `state_of_sets`."""
    engine = estimator.engine
    average = engine.average_state()
    with engine.averaged():
        parameters, companions = engine.parameters(), engine.companions()
    _require_usable({**parameters, **companions}, state.epoch)
    write_checkpoint(
        path,
        task.name,
        {
            "classes": list(model.classes),
            "model": model.description(),
            "configuration": task.config.model_dump(mode="json"),
            "parameters": parameters,
            "companions": companions,
            "average": average,
            "optimizer": estimator.optimizer_state(),
            "multipliers": engine.multipliers(),
            "epoch": state.epoch,
            "skipped": state.skipped,
            "stop_reason": state.stop_reason,
            "metric": {
                "name": metric,
                "value": state.evaluation.value if state.evaluation else math.nan,
            },
            "hooks": {type(hook).__name__: hook.state() for hook in hooks if hook.state()},
            "loaded": loaded,
            **sets,
        },
    )


def _require_usable(values: Mapping[str, np.ndarray], epoch: int) -> None:
    """Raise TrainingError rather than let parameters that are lost take the place of good ones."""
    if reason := unusable(values):
        raise TrainingError(
            f"{reason} after epoch {epoch}; the checkpoints of the epochs before are kept, and a smaller train.lr "
            "usually helps"
        )


def read_given(path: Path, task: str) -> dict[str, Any]:
    """A checkpoint of the task `task` whose network is to be gone on from: the optimizer's part of it stays on disk.

    Raises CheckpointError for a file that cannot be used.
    """
    return read_checkpoint(path, task, CHECKPOINT_KEYS, arrays_of=("parameters", "trained"))


def read_state(config: JobConfig, task: str) -> dict[str, Any] | None:
    """The state that a job with this configuration goes on from; None if its log_dir holds none.

    Raises CheckpointError for a file that cannot be used, ConfigurationError where keys differ that cannot change.
    """
    path = config.log_dir / TRAINING_STATE
    if not path.exists():
        log.warning("--resume: %s is not there, there is nothing to resume; the job starts afresh", path)
        return None
    state = read_checkpoint(path, task, _STATE_KEYS)
    # A key that did not exist when the job began had its default.
    before = {**_defaults(type(config)), **_flat(state["configuration"])}
    now = _flat(config.model_dump(mode="json"))
    # The network of a training that began with --load is that of the checkpoint, whatever the configuration says.
    left_open = [f"train.{name}" for name in config.train.left_open]  # they stay what the job has found out
    considered = [
        key for key in now if not (key in left_open or (state["loaded"] and key.startswith("model.")))
    ]
    changed = {key: (before.get(key), now[key]) for key in considered if before.get(key) != now[key]}
    fixed = [key for key in changed if key not in changeable(type(config))]
    if "train.minutes" in changed and 0 in changed["train.minutes"]:
        fixed.append("train.minutes")  # epochs of a training by time are not those of one by epochs
    if fixed:
        raise ConfigurationError(
            "\n".join(
                f"{key}: {changed[key][1]!r} differs from {changed[key][0]!r}, with which the job to resume began; "
                "this key cannot change on the way (leave out --resume to start afresh)"
                for key in fixed
            )
        )
    for key, (old, new) in changed.items():
        warnings.warn(f"--resume: {key} was {old!r} and is {new!r} now")
    if any(
        key in ("train.epochs", "train.minutes") or key.startswith("train.early_stop_") for key in changed
    ):
        state["stop_reason"] = None  # what ended the training may not end it now
    log.info("Resuming after epoch %d", state["epoch"])
    return state


def take_up(
    saved: dict[str, Any],
    model: Model,
    estimator: Estimator,
    hooks: Sequence[Hook],
    state: TrainingState,
    sets: Mapping[str, Any],
) -> bool:
    """Bring model, optimizer, hooks and state to where the saved training stood.

    Returns whether the validation set is another one than then, so that figures of then say nothing about now.
    """
    if saved["classes"] != model.classes:
        raise DataError(
            f"--resume: the classes are {model.classes} and were {saved['classes']} when the job began; "
            "leave out --resume to start afresh, or use --load to go on with other classes"
        )
    engine = estimator.engine
    try:
        engine.set_multipliers(saved["multipliers"])
        engine.set_companions(saved["companions"])
        engine.restore_average(saved["average"])
        estimator.restore_optimizer(saved["optimizer"])
        for hook in hooks:
            if type(hook).__name__ in saved["hooks"]:
                hook.restore(saved["hooks"][type(hook).__name__])
    except MISFITS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(
            f"{TRAINING_STATE} does not fit this job ({reason}); leave out --resume to start afresh"
        ) from None
    changed = bool(saved.get("valid_files", sets["valid_files"]) != sets["valid_files"])
    state.stop_reason = None if changed else saved["stop_reason"]
    state.epoch = saved["epoch"] if state.stop_reason else saved["epoch"] + 1
    state.skipped = saved["skipped"]
    if saved["files"] != sets["files"]:
        warnings.warn(
            "--resume: the training set is not the one that the job began with; it goes on with what is there"
        )
    return changed


def saved_share(saved: dict[str, Any], pace: ByTime) -> float:
    """The share of a training by time that was done when it was saved. Raises CheckpointError."""
    try:
        return pace.share_in(saved["hooks"][ByTime.__name__])
    except MISFITS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(
            f"{TRAINING_STATE} does not fit this job ({reason}); leave out --resume to start afresh"
        ) from None


def trained_images(checkpoint: dict[str, Any] | None) -> set[int]:
    """Marks of the images that a checkpoint was trained on; none for one that does not say."""
    if not checkpoint:
        return set()
    if "trained" not in checkpoint:
        warnings.warn(
            "The checkpoint does not say which images it was trained on; a split may validate on some of them"
        )
        return set()
    return set(checkpoint["trained"].tolist())


def state_of_sets(
    train: Sequence[Sample], valid: Sequence[Sample] | None, trained: np.ndarray
) -> dict[str, Any]:
    """What a checkpoint keeps of the sets: what is the same for the same sets, and marks of all images trained on."""
    return {"files": files_of(train), "valid_files": files_of(valid or []), "trained": trained}


def measure_anew(hooks: Sequence[Hook], evaluation: Evaluation) -> None:
    """Let `evaluation` of the best epoch's parameters take the place of what hooks know of it from another set."""
    for hook in hooks:
        if isinstance(hook, Checkpoints):
            hook.restore({**hook.state(), "value": evaluation.value, "tie_break": evaluation.tie_break})
        elif isinstance(hook, EarlyStopping):
            hook.restore({**hook.state(), "best": evaluation.value})
    warnings.warn(
        f"--resume: the validation set is another one now; on it the best epoch so far has {evaluation.value:.4f}"
    )


def files_of(samples: Sequence[Sample]) -> str:
    """A short mark of a set: the same for the same images and annotations in the same order."""
    digest = hashlib.sha1(usedforsecurity=False)
    for sample in samples:
        digest.update(os.fsencode(os.path.basename(sample.image)))
        digest.update(sample.annotation.tobytes())
    return digest.hexdigest()


def _defaults(config_class: type[JobConfig]) -> dict[str, Any]:
    """Defaults by dotted path, as they stand in a checkpoint; none for keys that are required."""
    return {
        key: to_jsonable_python(field.get_default(call_default_factory=True))
        for key, field in leaves(config_class).items()
        if not field.is_required()
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
