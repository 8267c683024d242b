"""Checkpoints of version 1.2.0, which were pickles, are read, and nothing but data comes of them."""

from __future__ import annotations

import os
import pickle
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import CheckpointError
from common.training.checkpoint import read_checkpoint, write_checkpoint

OLD = Path(__file__).resolve().parents[2] / "data" / "checkpoints" / "1.2.0.pkl"
"""Written by version 1.2.0 after an epoch of a classifier whose network was a single small layer."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best_checkpoint.pkl"


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
        (b"\x80\x04\x8e" + (4 << 30).to_bytes(8, "little") + b"x", "damaged"),
        (b"\x80\x04r\xff\xff\xff\x7f.", "damaged"),
        (pickle.dumps({"weights": 1}), "not a checkpoint"),
        (pickle.dumps([1, 2]), "not a checkpoint"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 99, "task": "task"}), "version 99"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 1, "task": "other"}), "other"),
        (pickle.dumps({"format": "visualtl-checkpoint", "version": 1, "task": "task"}), "lacks epoch"),
    ],
)
def test_what_is_no_checkpoint_of_this_task_is_named(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path, "task", ("epoch",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


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


def pairs(depth: int, end: bytes) -> bytes:
    """A tuple of the one before, twice, `depth` times over; to compute the hash of the last one takes 2^depth steps."""
    body = b")\x940" + b"".join(b"h%ch%c\x86\x940" % (i, i) for i in range(depth))
    return b"\x80\x04" + body + end


def colliding(count: int) -> bytes:
    """A dictionary whose keys have one hash: 0, 2^61 - 1, 2 * (2^61 - 1), ..."""
    keys = ((2**61 - 1) * number for number in range(count))
    return b"\x80\x04}(" + b"".join(b"\x8a\x0c%bN" % key.to_bytes(12, "little") for key in keys) + b"u."


HOSTILE = {
    "pairs in a frozenset": pairs(40, b"(h\x28\x91."),
    "pairs as a key": pairs(40, b"}h\x28Ns."),
    "pairs without taking anything back": b"\x80\x04)\x94" + b"h\0h\0\x86\x94" * 40 + b".",
    "a deep tuple as a key": b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",
    "a deep tuple": b"\x80\x04)" + b"\x85" * 300_000 + b".",
    "a deep list": b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "a list of a list": b"\x80\x04" + b"(" * 100_000 + b"l" * 100_000 + b".",
    "colliding keys": colliding(80_000),
    "empty containers": b"\x80\x04](" + b"}" * 4_000_000 + b"e.",
    "empty containers by one": b"\x80\x04]" + b"]a" * 2_000_000 + b".",
    "marks": b"\x80\x04" + b"(" * 4_000_000 + b".",
    "a circle": b"\x80\x04]\x94h\0a.",
    "one list in many places": b"\x80\x04]\x94]h\0a.",
    "a large number": pickle.dumps(around(1 << 16609), 4),
    "more text than any": b"\x80\x04]("
    + (b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)) * 20
    + b"e.",
    "nothing on the stack": b"\x80\x04a.",
    "a mark taken twice": b"\x80\x04}(uu.",
    "items of a number": b"\x80\x04K\1(K\1K\1u.",
    "an odd item": b"\x80\x04}(K\1u.",
    "bytes as data": pickle.dumps(around(b"bytes"), 4),
    "a tuple as data": pickle.dumps(around((1, 2)), 4),
    "a set": pickle.dumps(around({1}), 4),
    "text that is none": b"\x80\x04\x8c\1\xff.",
    "a state of nothing": b"\x80\x04NNb.",
    "a key of bytes": b"\x80\x04}C\1aNs.",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_program_that_makes_no_checkpoint_is_refused_at_once_and_without_memory(
    path: Path, what: str
) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(path, HOSTILE[what])
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_file_of_a_terabyte_is_refused_by_its_size(path: Path) -> None:
    path.write_bytes(OLD.read_bytes())
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="1099511627776 bytes are more than"):
        read_checkpoint(path, "tiny")


ORDERS = [np.arange(6).astype(kind).reshape(2, 3) for kind in (">f4", "<f8", "f2", "i8", "u1", "?")]


@pytest.mark.parametrize("array", [*ORDERS, np.asfortranarray(ORDERS[1]), np.array(3.0, "f4")])
def test_arrays_of_every_numeric_type_and_order_come_back(path: Path, array: np.ndarray) -> None:
    path.write_bytes(pickle.dumps(around([array, "x" * 300, 1 << 40, -1, 2.5, None, True]), 4))
    found = read_checkpoint(path, "task")["x"]
    np.testing.assert_array_equal(found[0], array)
    assert found[0].dtype == array.dtype
    assert found[1:] == ["x" * 300, 1 << 40, -1, 2.5, None, True]


def same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        return wanted.keys() == found.keys() and all(same(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(same, wanted, found))
    if isinstance(wanted, np.ndarray):
        return wanted.dtype == found.dtype and np.array_equal(wanted, found)
    return type(wanted) is type(found) and (wanted == found or wanted != wanted)


def test_a_training_state_of_1_2_0_is_read_and_written_as_one_of_today(path: Path) -> None:
    wanted = pickle.loads(OLD.read_bytes())
    found = read_checkpoint(OLD, "tiny", ("epoch", "parameters"))
    assert wanted["optimizer"].pop("steps_at_scale") == 0
    wanted["optimizer"]["loss_scale"] = {"value": wanted["optimizer"]["loss_scale"], "steps": 0}
    assert same(wanted, found)
    write_checkpoint(
        path, "tiny", {key: found[key] for key in found if key not in ("format", "version", "task")}
    )
    again = read_checkpoint(path, "tiny")
    assert same({**wanted, "version": 2}, again)
