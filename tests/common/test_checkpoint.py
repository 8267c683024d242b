"""A checkpoint brings data across, and nothing but data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.checkpoint import read_checkpoint, write_checkpoint
from common.errors import CheckpointError

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


def test_plain_pickle_reads_it_with_numpy_alone(path: Path) -> None:
    write_checkpoint(path, "task", CONTENT)
    assert pickle.loads(path.read_bytes())["epoch"] == 3


class Hostile:
    """Runs a command when an ordinary pickle reader meets it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("where", ["top", "inside"])
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(path: Path, tmp_path: Path, where: str) -> None:
    canary = tmp_path / "canary"
    for hostile in (
        Hostile(os.system, f"touch {canary}"),
        Hostile(eval, f"open({str(canary)!r}, 'w')"),
        Hostile(exec, f"open({str(canary)!r}, 'w')"),
        Hostile(open, str(canary), "w"),
        Hostile(np.load, str(canary)),
    ):
        document = (
            hostile if where == "top" else {"format": "visualtl-checkpoint", "version": 1, "x": [hostile]}
        )
        path.write_bytes(pickle.dumps(document))
        with pytest.raises(CheckpointError, match=r"not plain data|not a usable") as caught:
            read_checkpoint(path, "task")
        assert "\n" not in str(caught.value)
        assert not canary.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"not a pickle", "damaged"),
        (b"\x80\x04\x8e" + (4 << 30).to_bytes(8, "little") + b"x", "damaged"),
        (b"\x80\x04r\xff\xff\xff\x7f.", "damaged"),
        (pickle.dumps({"weights": 1}), "not a checkpoint"),
        (pickle.dumps([1, 2]), "not a checkpoint"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 99, "task": "task"}), "version 99"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 1, "task": "other"}), "other"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 1, "task": "task"}), "lacks epoch"),
    ],
)
def test_what_is_no_checkpoint_of_this_task_is_named_in_one_line(
    path: Path, data: bytes, reason: str
) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path, "task", ("epoch",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(path, "task")


def test_an_array_of_objects_is_not_written(path: Path) -> None:
    with pytest.raises(CheckpointError, match="not of numbers"):
        write_checkpoint(path, "task", {"x": np.array([object()])})
    assert not path.exists()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "best_checkpoint.pkl"
    write_checkpoint(path, "task", CONTENT)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        outcome = repr(type(read_checkpoint(path, "task")))
    except CheckpointError as error:
        outcome = str(error)
    assert outcome
    assert "\n" not in outcome
