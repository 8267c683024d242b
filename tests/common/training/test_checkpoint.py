"""A checkpoint brings data across, and nothing but data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.container import write_container
from common.errors import CheckpointError
from common.training.checkpoint import classes_of, is_finite, read_checkpoint, write_checkpoint

CONTENT = {
    "epoch": 3,
    "metric": float("nan"),
    "classes": ["猫", "dog"],
    "parameters": {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "empty": np.zeros((0, 4), np.float16),
    },
    "nested": {"list": [1, 2.5, None, True, "x"], "scalar": np.array(2)},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best_checkpoint.pkl"


def test_what_was_written_is_read_again(path: Path) -> None:
    write_checkpoint(path, "task", CONTENT)
    document = read_checkpoint(path, "task", ("epoch", "classes"))
    assert document["classes"] == ["猫", "dog"]
    assert document["nested"]["list"] == [1, 2.5, None, True, "x"]
    np.testing.assert_array_equal(document["parameters"]["a.weight"], CONTENT["parameters"]["a.weight"])  # type: ignore[index]
    assert document["parameters"]["empty"].shape == (0, 4)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weights": 1}, "not a checkpoint"),
        ({"format": "visualtl-checkpoint", "version": 99, "task": "task"}, "version 99"),
        ({"format": "visualtl-checkpoint", "version": 2, "task": "other"}, "other"),
        ({"format": "visualtl-checkpoint", "version": 2, "task": "task"}, "lacks epoch"),
    ],
)
def test_what_is_no_checkpoint_of_this_task_is_named_in_one_line(
    path: Path, content: dict[str, Any], reason: str
) -> None:
    write_container(path, content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path, "task", ("epoch",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", b"not a checkpoint", b"\0" * 100, b"PK\3\4" * 9])
def test_a_file_that_is_something_else_is_told(path: Path, content: bytes) -> None:
    refused(path, content)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(path, "task")


def test_an_array_of_objects_is_not_written(path: Path) -> None:
    with pytest.raises(CheckpointError, match="not of numbers"):
        write_checkpoint(path, "task", {"x": np.array([object()])})
    assert not path.exists()


def refused(path: Path, document: Any) -> str:
    """The one line with which a document, or its bytes, are refused."""
    if isinstance(document, bytes):
        path.write_bytes(document)
    else:
        write_container(path, document)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, "task")
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    assert len(told) < len(str(path)) + 200
    return told


def around(value: Any) -> dict[str, Any]:
    return {"format": "visualtl-checkpoint", "version": 2, "task": "task", "x": value}


@pytest.mark.parametrize("key", ["format", "version", "task"])
@pytest.mark.parametrize(
    "value",
    [np.ones(3), np.ones(1), "x" * 100_000, "a\nb", ["x" * 50] * 1000, {"a": 1}, 1.0, True, None, 1 << 60],
    ids=["array", "one", "long", "lines", "many", "dictionary", "fraction", "truth", "none", "large"],
)
def test_an_odd_format_version_or_task_is_told_in_short(path: Path, key: str, value: Any) -> None:
    refused(path, {**around(1), key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "cat"),
        ("classes", [1]),
        ("model", None),
        ("configuration", [1]),
        ("parameters", {"a": [1.0]}),
        ("parameters", {"a": np.array([1.0, np.nan])}),
        ("epoch", "3"),
        ("epoch", -1),
        ("hooks", []),
        ("hooks", {"EarlyStopping": {"best": "0.5"}}),
        ("hooks", {"EarlyStopping": {"best": np.ones(1)}}),
        ("epoch", True),
        ("epoch", np.ones(1)),
        ("average", {"updates": "1", "trained": {}, "statistics": {}}),
        ("average", {"updates": 1, "trained": {"a": "b"}, "statistics": {}}),
        ("optimizer", {"num_update": 1.5}),
        ("optimizer", {"counts": {"a": "1"}}),
        ("optimizer", {"states": {"a": ["text"]}}),
        ("optimizer", {"loss_scale": {"value": "1"}}),
        ("multipliers", {"a": [1.0]}),
        ("multipliers", {"a": [1.0, "x"]}),
        ("loaded", 1),
        ("stop_reason", 1),
        ("files", np.ones(2)),
        ("parameters", {"a": None}),
        ("companions", {"a": None}),
        ("trained", None),
        ("average", {"updates": 1, "trained": {"a": None}, "statistics": {}}),
        ("epoch", 1 << 62),
        ("skipped", 1 << 62),
        ("hooks", {"EarlyStopping": {"best_epoch": np.inf}}),
        ("hooks", {"Checkpoints": {"epoch": 5.5}}),
        ("hooks", {"Checkpoints": {"epoch": -1}}),
        ("hooks", {"Checkpoints": {"value": np.inf}}),
        ("hooks", {"Checkpoints": {"tie_break": None}}),
        ("optimizer", {"num_update": 1 << 62}),
        ("optimizer", {"m_schedule": np.nan}),
        ("optimizer", {"m_schedule": 1.5}),
        ("optimizer", {"rate_before": -1.0}),
        ("optimizer", {"rate_before": np.nan}),
        ("optimizer", {"loss_scale": {"value": 0.0}}),
        ("optimizer", {"loss_scale": {"value": np.inf}}),
        ("optimizer", {"loss_scale": {"value": 1.0, "steps": 0.5}}),
        ("optimizer", {"states": {"a": [np.array([np.nan])]}}),
        ("multipliers", {"a": [np.nan, 1.0]}),
        ("multipliers", {"a": [-1.0, 1.0]}),
        ("multipliers", {"a": [1.0, np.inf]}),
        ("parameters", {"a": np.array([3e38], np.float32)}),
        ("parameters", {"a": np.array([-1e300])}),
        ("companions", {"a": np.array([3e38], np.float32)}),
        ("average", {"updates": 1, "trained": {}, "statistics": {"a_running_var": np.array([-1.0])}}),
    ],
)
def test_content_of_another_kind_is_told_by_its_key(path: Path, key: str, value: Any) -> None:
    assert f"its {key} is not " in refused(path, {**around(1), key: value})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            np.array([1.0, -2e18], np.float32),
            "its parameters is not usable: a_running_var has numbers beyond 1e+18",
        ),
        (
            np.array([1.0, -0.5], np.float32),
            "its parameters is not usable: a_running_var, a variance, is negative (-0.5)",
        ),
    ],
)
def test_parameters_with_which_no_network_computes_are_told_by_name(
    path: Path, value: np.ndarray, told: str
) -> None:
    content = {**around(1), "parameters": {"a_running_var": value}}
    assert told in refused(path, content)


@pytest.mark.parametrize(
    ("epoch", "best", "told"),
    [
        (3, 0, "its epoch is not one of the 3 of its configuration: 3"),
        (10**12, 0, "its epoch is not one of the 3 of its configuration"),
        (1, 2, "its hooks is not usable: 'Checkpoints' has the epoch 2, which is after its own"),
    ],
)
def test_an_epoch_that_its_job_cannot_have_come_to_is_told(
    path: Path, epoch: int, best: int, told: str
) -> None:
    content = {**around(1), "configuration": {"train": {"epochs": 3}}}
    good = {**content, "epoch": 2, "hooks": {"Checkpoints": {"epoch": 2, "value": -np.inf}}}
    write_container(path, good)
    assert read_checkpoint(path, "task")["epoch"] == 2
    assert told in refused(path, {**content, "epoch": epoch, "hooks": {"Checkpoints": {"epoch": best}}})


def test_what_is_not_asked_for_may_be_anything_and_what_is_may_not_be_nothing(path: Path) -> None:
    content = {
        **around(1),
        "parameters": {"a": np.ones(1)},
        "optimizer": {"states": {"a": [np.array([np.nan])]}},
    }
    write_container(path, content)
    read_checkpoint(path, "task", arrays_of=("parameters",))
    write_container(path, {**content, "parameters": {"a": None}, "x": np.ones(1)})
    with pytest.raises(CheckpointError, match="its parameters is not a dictionary of arrays"):
        read_checkpoint(path, "task", arrays_of=("parameters",))


def test_what_is_no_file_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(path, "task")


def test_numbers_of_numpy_are_written_as_numbers(path: Path) -> None:
    write_checkpoint(path, "task", {"value": np.float64(0.5), "count": np.int64(3), "good": np.bool_(True)})
    document = read_checkpoint(path, "task")
    assert [document[key] for key in ("value", "count", "good")] == [0.5, 3, True]
    assert [type(document[key]) for key in ("value", "count", "good")] == [float, int, bool]


def test_only_the_arrays_that_are_asked_for_are_in_memory(path: Path) -> None:
    write_checkpoint(path, "task", {**CONTENT, "average": {"trained": {"a": np.ones(3, np.float32)}}})
    document = read_checkpoint(path, "task", arrays_of=("parameters",))
    assert document["parameters"]["a.weight"].shape == (2, 3)
    assert document["average"]["trained"] == {"a": None}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_numbers_that_are_not_finite_are_found_wherever_they_are(value: float, kind: Any) -> None:
    assert is_finite(np.zeros((0, 3), kind))
    for place in (0, 50, 99):
        array = np.linspace(-1, 1, 100).astype(kind)
        assert is_finite(array)
        array[place] = value
        assert not is_finite(array)


def test_a_network_of_no_class_is_none() -> None:
    assert classes_of({"classes": ["cat"]}) == ["cat"]
    with pytest.raises(CheckpointError, match="names no classes"):
        classes_of({"classes": []})
