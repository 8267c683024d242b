"""Early stopping and the best checkpoint follow the metric as the contract says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from common.evaluator import Evaluation
from common.files import replacing
from common.reporting.status import Status
from common.training.estimator import TrainingState
from common.training.hooks import EarlyStopping, LogLines, Validation
from common.training.resume import BEST_CHECKPOINT, TRAINING_STATE, Checkpoints

NAN = math.nan


def stopped_after(values: list[float], interval: int = 1, **keys: Any) -> int | None:
    """The epoch after which training ends for metrics `values`, one for each validation."""
    settings: dict[str, Any] = {"patience": -1, "min_delta": 0.001, "baseline": 0.0, "max_value": 1.0, **keys}
    hook = EarlyStopping(**settings)
    state = TrainingState(epochs=100, steps=1)
    for number, value in enumerate(values):
        for state.epoch in range(number * interval, (number + 1) * interval):
            state.evaluation = Evaluation(value) if state.epoch % interval == interval - 1 else None
            hook.after_epoch(state)
            if state.stop_reason:
                return state.epoch
    return None


@pytest.mark.parametrize(
    ("values", "keys", "epoch"),
    [
        ([0.5] * 20, {}, None),
        ([0.1, 0.5, 0.5, 0.5, 0.5], {"patience": 2}, 3),
        ([0.1, 0.5, 0.4, 0.6, 0.6, 0.6], {"patience": 2}, 5),
        ([0.5, 0.5009, 0.5018, 0.5027], {"patience": 2, "min_delta": 0.001}, None),
        ([0.5, 0.5009, 0.5009, 0.5009], {"patience": 2, "min_delta": 0.001}, 2),
        ([0.5, 0.5009, 0.5018], {"patience": 2, "min_delta": 0.0}, None),
        # A change of min_delta itself is an improvement, also where it is a little less in binary.
        ([0.5, 0.501, 0.502, 0.503], {"patience": 1, "min_delta": 0.001}, None),
        ([0.7, 0.8, 0.9, 1.0 - 1e-9], {"patience": 1, "min_delta": 0.1, "max_value": 9.0}, 3),
        ([0.7, 0.8, 0.9, 0.999], {"patience": 1, "min_delta": 0.1}, 3),
        ([-3.0, -2.75, -2.5, -2.25], {"patience": 1, "min_delta": 0.25, "baseline": None}, None),
        ([0.5, 0.5], {"patience": 1, "min_delta": 0.0}, 1),
        ([0.5] * 10, {"patience": 2, "baseline": 0.6}, None),
        ([0.5, 0.5, 0.5, 0.7, 0.7, 0.7], {"patience": 2, "baseline": 0.6}, 5),
        ([0.5, 0.9, 0.95], {"max_value": 0.9}, 1),
        ([-9.0, -5.0, 0.0], {"max_value": 0.0, "baseline": None}, 2),
        ([-9.0, -9.0, -9.0], {"patience": 1, "max_value": 0.0, "baseline": None}, 1),
        ([0.5, NAN, NAN, 0.6], {"patience": 2}, 2),
        ([NAN, NAN, NAN], {"patience": 2}, 2),
        ([0.5, 0.4], {"patience": 0}, 1),
    ],
)
def test_early_stopping(values: list[float], keys: dict[str, Any], epoch: int | None) -> None:
    if values[0] != values[0]:
        keys = {**keys, "baseline": None}
    assert stopped_after(values, **keys) == epoch


def test_the_largest_value_ends_nothing_while_the_model_can_become_better() -> None:
    hook = EarlyStopping(patience=-1, min_delta=0.001, baseline=0.0, max_value=1.0)
    state = TrainingState(epochs=100, steps=1)
    state.evaluation = Evaluation(1.0, tie_break=0.9, unsettled=True)
    hook.after_epoch(state)
    assert state.stop_reason is None
    state.evaluation = Evaluation(1.0, tie_break=1.0)
    hook.after_epoch(state)
    assert state.stop_reason is not None


@pytest.mark.parametrize(("interval", "lines"), [(2, 2), (5, 1), (0, 0)])
def test_a_line_is_logged_every_so_many_batches_or_never(
    caplog: pytest.LogCaptureFixture, interval: int, lines: int
) -> None:
    hook = LogLines(interval)
    with caplog.at_level("INFO", logger="visualtl"):
        for step in range(1, 6):
            hook.after_step(TrainingState(epochs=1, steps=5, step=step))
    assert len(caplog.records) == lines


def test_patience_counts_epochs_whatever_the_interval_of_validation() -> None:
    assert stopped_after([0.5, 0.5, 0.5, 0.5], interval=3, patience=4) == 8


def test_early_stopping_taken_up_again_remembers_the_best() -> None:
    first, second = (EarlyStopping(2, 0.0, 0.0, 1.0) for _ in range(2))
    state = TrainingState(epochs=9, steps=1)
    state.evaluation = Evaluation(0.5)
    first.after_epoch(state)
    second.restore(first.state())
    state.epoch, state.evaluation = 2, Evaluation(0.4)
    second.after_epoch(state)
    assert state.stop_reason


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0.1, 0.3, 0.2, 0.4], [0, 1, 3]),
        ([0.1, NAN, 0.05], [0]),
        ([NAN, NAN, 0.0, NAN], [0, 1, 2]),
        ([0.2, 0.2], [0]),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_epoch(
    tmp_path: Path, values: list[float], written: list[int]
) -> None:
    hook = checkpoints(tmp_path, validated=True)
    state = TrainingState(epochs=9, steps=1)
    best: list[int] = []
    for epoch, value in enumerate(values):
        state.epoch, state.evaluation = epoch, Evaluation(value)
        hook.after_epoch(state)
        assert (tmp_path / TRAINING_STATE).read_text() == str(epoch)
        best.append(int((tmp_path / BEST_CHECKPOINT).read_text()))
    assert sorted(set(best)) == written


def checkpoints(folder: Path, validated: bool) -> Checkpoints:
    """Files that hold nothing but the number of their epoch."""

    def write(path: Path, state: TrainingState) -> None:
        with replacing(path, "w") as file:
            file.write(str(state.epoch))

    return Checkpoints(folder, write, "mAP", Status(folder), validated=validated)


def test_of_equal_values_the_tie_break_decides_also_after_a_restart(tmp_path: Path) -> None:
    state = TrainingState(epochs=9, steps=1)
    kept: dict[str, Any] = {}
    best = []
    for epoch, (value, tie_break) in enumerate([(0.5, 0.2), (0.5, 0.1), (0.5, 0.3), (0.6, 0.0), (0.5, 0.9)]):
        hook = checkpoints(tmp_path, validated=True)
        if kept:
            hook.restore(kept)
        state.epoch, state.evaluation = epoch, Evaluation(value, tie_break=tie_break)
        hook.after_epoch(state)
        kept = hook.state()
        best.append(int((tmp_path / BEST_CHECKPOINT).read_text()))
    assert best == [0, 0, 2, 3, 3]


def test_without_validation_the_latest_epoch_is_the_best(tmp_path: Path) -> None:
    hook = checkpoints(tmp_path, validated=False)
    state = TrainingState(epochs=3, steps=1)
    for state.epoch in range(3):
        hook.after_epoch(state)
        assert (tmp_path / BEST_CHECKPOINT).read_text() == str(state.epoch)


def test_an_epoch_without_validation_is_not_the_best(tmp_path: Path) -> None:
    hook = checkpoints(tmp_path, validated=True)
    state = TrainingState(epochs=3, steps=1)
    hook.after_epoch(state)
    assert (tmp_path / TRAINING_STATE).exists()
    assert not (tmp_path / BEST_CHECKPOINT).exists()


class Page:
    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.points.append((tag, value, step))


@pytest.mark.parametrize(("interval", "validated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (10, [4])])
def test_validation_runs_every_interval_and_after_the_last_epoch(interval: int, validated: list[int]) -> None:
    page, epochs = Page(), []
    state = TrainingState(epochs=5, steps=3)

    def evaluate() -> Evaluation:
        epochs.append(state.epoch)
        return Evaluation(0.5, {"AP/cat": 0.25})

    hook = Validation(evaluate, interval, "mAP", page)  # type: ignore[arg-type]
    for state.epoch in range(5):
        state.evaluation, state.step = None, 3
        hook.after_epoch(state)
    assert epochs == validated
    assert page.points[:2] == [
        ("valid/mAP", 0.5, 3 * validated[0] + 3),
        ("valid/AP/cat", 0.25, 3 * validated[0] + 3),
    ]
