"""What is kept of a training is good, and what is taken up again fits."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from classification.config import ClassificationConfig
from common.config.reading import configuration
from common.errors import CheckpointError, ConfigurationError, DataError, TrainingError
from common.training.checkpoint import read_checkpoint, write_checkpoint
from common.training.estimator import Estimator, TrainingState
from common.training.hooks import EarlyStopping
from common.training.resume import TRAINING_STATE, keep_as_best, read_state, take_up, write_state
from tests.helpers.estimators import Tiny, batches, estimator_of

SETS: dict[str, Any] = {"files": "", "valid_files": "", "trained": np.array([7], np.uint64)}


OLD = Path(__file__).resolve().parents[2] / "data" / "checkpoints" / "1.2.0.pkl"


class Task(SimpleNamespace):
    """As much of a task as a checkpoint holds."""

    name, metric = "tiny", "distance"
    config = SimpleNamespace(model_dump=lambda mode: {"train": {"epochs": 3}})


def estimator() -> Estimator:
    return estimator_of(Tiny([mx.cpu()]), limit=None, ema_decay=0.9)


def write(path: Path, made: Estimator, epoch: int) -> None:
    state = TrainingState(epochs=3, steps=1, epoch=epoch)
    hooks = [EarlyStopping(1, 0.0, None, 1.0)]
    write_state(path, Task(), made.model, made, hooks, state, metric="distance", loaded=False, sets=SETS)  # type: ignore[arg-type]


def saved(folder: Path) -> dict[str, Any]:
    made = estimator()
    for batch in batches(3):
        made.step(batch, 0.01)
    write(folder / TRAINING_STATE, made, 1)
    return read_checkpoint(folder / TRAINING_STATE, "tiny")


def taken_up(state: dict[str, Any]) -> tuple[Estimator, TrainingState]:
    made, training = estimator(), TrainingState(3, 1)
    take_up(state, made.model, made, [EarlyStopping(1, 0.0, None, 1.0)], training, SETS)
    return made, training


def test_parameters_that_are_not_finite_never_take_the_place_of_good_ones(tmp_path: Path) -> None:
    path, made = tmp_path / TRAINING_STATE, estimator()
    write(path, made, 0)
    good = path.read_bytes()
    bias = made.model.network[1].bias
    for value in (np.nan, np.inf):
        bias.set_data(mx.nd.full(bias.shape, value))
        made.step(batches(1)[0], 0.01)
        with pytest.raises(TrainingError, match=r"1\.bias is not finite after epoch 7.*smaller train\.lr"):
            write(path, estimator_of(made.model), 7)
        assert path.read_bytes() == good


def test_what_was_written_is_taken_up(tmp_path: Path) -> None:
    state = saved(tmp_path)
    made, training = taken_up(state)
    assert training.epoch == state["epoch"] + 1 == 2
    assert made.optimizer_state()["num_update"] == state["optimizer"]["num_update"] == 3
    trained, average = state["average"]["trained"], made.engine.average_state()
    assert average is not None
    assert average["updates"] == 3
    assert all((average["trained"][name] == value).all() for name, value in trained.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multipliers", {"no.such.layer": [1.0, 1.0]}),
        ("multipliers", {"1.bias": 3}),
        ("optimizer", {}),
        ("average", {"updates": 1, "trained": {}}),
        ("average", {"updates": 1, "statistics": {"other": np.zeros(3, np.float32)}, "trained": {}}),
        (
            "average",
            {
                "updates": 1,
                "statistics": {},
                "trained": {"network.1.bias": np.zeros((3, 3, 3), np.float32)},
            },
        ),
        ("average", {"updates": 1, "statistics": {}, "trained": {"other": np.zeros(3, np.float32)}}),
        ("hooks", {"EarlyStopping": {"worst": 1}}),
        ("hooks", {"EarlyStopping": 1}),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(tmp_path: Path, key: str, value: Any) -> None:
    state = saved(tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"^{TRAINING_STATE} does not fit this job \(.*leave out --resume"
    ) as caught:
        taken_up({**state, key: value})
    assert "\n" not in str(caught.value)


def test_other_classes_are_told_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--resume: the classes are \['only'\] and were \['cat'\]"):
        taken_up({**saved(tmp_path), "classes": ["cat"], "optimizer": {}})


def test_a_training_of_1_2_0_goes_on(tmp_path: Path) -> None:
    made = estimator_of(Tiny([mx.cpu()]), optimizer="adam", limit=None, ema_decay=0.9)
    state = read_checkpoint(OLD, "tiny")
    training, stopping = TrainingState(3, 3), EarlyStopping(1, 0.0, None, 1.0)
    take_up(state, made.model, made, [stopping], training, SETS)
    assert training.epoch == 1
    assert made.optimizer_state()["num_update"] == 3
    assert stopping.state() == {"best": 0.5, "best_epoch": 0}
    mean, variance = made.optimizer_state()["states"]["network.1.bias"]
    np.testing.assert_array_equal(mean, state["optimizer"]["states"]["network.1.bias"][0])
    assert variance.min() > 0
    made.step(batches(1)[0], 0.01)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [np.zeros(3, np.float32)],
        [np.zeros(3, np.float32)] * 3,
        np.zeros(3, np.float32),
        [np.zeros((7, 7), np.float32)] * 2,
        [np.zeros(3, np.int64)] * 2,
        [np.zeros((), np.float32), np.zeros((0, 3), np.float32)],
    ],
)
def test_what_an_optimizer_keeps_of_a_layer_must_be_its_own(tmp_path: Path, value: Any) -> None:
    made = estimator_of(Tiny([mx.cpu()]), optimizer="adam", limit=None, ema_decay=0.9)
    state = read_checkpoint(OLD, "tiny")
    state["optimizer"]["states"]["network.1.bias"] = value
    with pytest.raises(
        CheckpointError, match=r"does not fit this job \(ValueError: network\.1\.bias has a state"
    ):
        take_up(state, made.model, made, [], TrainingState(3, 3), SETS)


@pytest.mark.parametrize("links", [True, False])
def test_the_best_checkpoint_is_a_file_of_its_own_name_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no second names here")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    (tmp_path / TRAINING_STATE).write_bytes(b"state")
    (tmp_path / "precious").write_bytes(b"precious")
    for name in (f".best_checkpoint.pkl.{os.getpid()}.part", "best_checkpoint.pkl"):
        (tmp_path / name).symlink_to("precious")
    keep_as_best(tmp_path)
    assert (tmp_path / "best_checkpoint.pkl").read_bytes() == b"state"
    assert not (tmp_path / "best_checkpoint.pkl").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def job_configuration(log_dir: Path, **keys: Any) -> ClassificationConfig:
    return configuration(ClassificationConfig, {"log_dir": str(log_dir), **keys})


def begun(log_dir: Path, without: tuple[str, ...] = (), **keys: Any) -> None:
    """A training state of a job with this configuration, of a version that did not know the keys `without`."""
    document = job_configuration(log_dir, **keys).model_dump(mode="json")
    for key in without:
        section, _, name = key.rpartition(".")
        del (document[section] if section else document)[name]
    state = read_checkpoint(OLD, "tiny")
    content = {key: state[key] for key in state if key not in ("format", "version", "task")}
    write_checkpoint(log_dir / TRAINING_STATE, "tiny", {**content, "configuration": document})


def test_a_key_that_is_new_since_the_job_began_had_its_default(tmp_path: Path) -> None:
    new = ("dataset.valid_size", "train.ema_decay", "train.lr_decay_epoch", "valid.interval")
    begun(tmp_path, new)
    state = read_state(job_configuration(tmp_path), "tiny")
    assert state is not None
    assert state["epoch"] == 0
    with pytest.raises(ConfigurationError, match=r"^train\.ema_decay: 0\.5 differs from 0\.9998"):
        read_state(job_configuration(tmp_path, train={"ema_decay": 0.5}), "tiny")


def test_a_job_that_began_with_load_keeps_to_its_network_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, model={"base_network": "mobilenet0.25"})
    with pytest.raises(ConfigurationError, match="base_network"):
        read_state(job_configuration(tmp_path), "tiny")
    state = read_checkpoint(tmp_path / TRAINING_STATE, "tiny")
    content = {key: state[key] for key in state if key not in ("format", "version", "task")}
    write_checkpoint(tmp_path / TRAINING_STATE, "tiny", {**content, "loaded": True})
    with caplog.at_level("WARNING", "visualtl"):
        assert read_state(job_configuration(tmp_path), "tiny") is not None
    assert caplog.messages == []
