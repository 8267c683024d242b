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

from common.errors import CheckpointError
from common.training.checkpoint import classes_of, read_checkpoint, write_checkpoint

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


@settings(max_examples=1500, deadline=None)
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


class Reduced:
    """Pickles as a call of something that a reader allows, with arguments of the writer's choice."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return self.arguments


def refused(path: Path, document: Any) -> str:
    """The one line with which a document, or its bytes, are refused."""
    path.write_bytes(document if isinstance(document, bytes) else pickle.dumps(document, 4))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, "task")
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    assert len(told) < len(str(path)) + 200
    return told


def around(value: Any) -> dict[str, Any]:
    return {"format": "visualtl-checkpoint", "version": 1, "task": "task", "x": value}


RECONSTRUCT = np.core.multiarray._reconstruct  # type: ignore[attr-defined]
FLOAT = np.dtype("f4")
FIELDS = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
POINTERS = Reduced(np.dtype, ("V8", False, True), FIELDS)


@pytest.mark.parametrize(
    "made",
    [
        Reduced(RECONSTRUCT, (np.ndarray, (1 << 36,), "f4")),  # as numpy has it: 256 GB at once
        Reduced(np.ndarray, ((1 << 36,), FLOAT)),
        Reduced(np.ndarray, ((1,), np.dtype("O"), b"\0" * 8)),
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 36,), FLOAT, False, b"abcd")),
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 70,), FLOAT, False, b"")),
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1,), FLOAT, False, b"abcd")),
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, [[]])),
        # A type that hides object pointers behind flags of plain bytes: numpy would follow them.
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), POINTERS, False, b"A" * 8)),
        Reduced(np.dtype, ("f4", False, True)),
        Reduced(np.dtype, ("f4", False, True), (3, "<", None, None, None, 1 << 40, 1, 63)),
        RECONSTRUCT,
        np.ndarray,
        Reduced(getattr, (np.dtype, "__init__")),
        np.zeros(1, "M8[s]"),
        np.zeros(1, [("a", "f4")]),
    ],
)
def test_what_numpy_would_believe_is_refused(path: Path, made: Any) -> None:
    refused(path, around(made))


def test_sizes_that_the_file_does_not_hold_take_no_memory(path: Path) -> None:
    laughs: Any = "ha" * 1000
    for _ in range(25):
        laughs = [laughs, laughs]
    assert "unfolds" in refused(path, around(laughs))
    circle: list[Any] = []
    circle.append(circle)
    refused(path, around(circle))
    refused(path, b"\x80\x04" + b"(" * 100_000 + b"l" * 100_000 + b".")
    for depth in (40, 2_000, 1_000_000):
        assert "too deeply" in refused(path, b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert "16610 bits" in refused(path, around(1 << 16609))


@pytest.mark.parametrize("key", ["version", "task"])
@pytest.mark.parametrize(
    "value", [(10**50000,), "x" * 100_000, "a\nb", ["x" * 50] * 1000], ids=["digits", "long", "lines", "many"]
)
def test_a_foreign_version_or_task_is_told_in_short(path: Path, key: str, value: Any) -> None:
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
        ("parameters", {"a": np.array(["b"])}),
        ("parameters", {1: np.ones(1)}),
        ("epoch", "3"),
        ("epoch", -1),
        ("hooks", []),
    ],
)
def test_content_of_another_kind_is_told_by_its_key(path: Path, key: str, value: Any) -> None:
    assert f"its {key} is not " in refused(path, {**around(1), key: value})


def test_what_is_no_file_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no regular file"):
        read_checkpoint(path, "task")


def test_numbers_of_numpy_are_written_as_numbers(path: Path) -> None:
    write_checkpoint(path, "task", {"value": np.float64(0.5), "count": np.int64(3), "good": np.bool_(True)})
    document = read_checkpoint(path, "task")
    assert [document[key] for key in ("value", "count", "good")] == [0.5, 3, True]
    assert [type(document[key]) for key in ("value", "count", "good")] == [float, int, bool]


ORDERS = [np.arange(6).astype(kind).reshape(2, 3) for kind in (">f4", "<f8", "f2", "i8", "u1", "?", "U5")]


@pytest.mark.parametrize("array", [*ORDERS, np.asfortranarray(ORDERS[1]), np.float32(3.0).reshape(())])
def test_arrays_of_every_numeric_type_and_order_come_back(path: Path, array: np.ndarray) -> None:
    write_checkpoint(path, "task", {"x": array})
    np.testing.assert_array_equal(read_checkpoint(path, "task")["x"], array)


def test_a_network_of_no_class_is_none() -> None:
    assert classes_of({"classes": ["cat"]}) == ["cat"]
    with pytest.raises(CheckpointError, match="names no classes"):
        classes_of({"classes": []})
