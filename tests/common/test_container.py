"""A container brings plain data and arrays across, whole, or says in a sentence what is wrong with the file."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.container import ContainerError, is_container, read_container, write_container

ROOT = Path(__file__).resolve().parents[2]
CONTENT: dict[str, Any] = {
    "epoch": 3,
    "metric": float("nan"),
    "classes": ["猫", "dog", "\udcff"],
    "parameters": {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "empty": np.zeros((0, 4), np.float16),
    },
    "nested": {"list": [1, 2.5, None, True, "x", np.arange(3)], "scalar": np.array(2), "/": {"": np.ones(1)}},
    "large": -(1 << 63),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_what_was_written_is_read_again(path: Path) -> None:
    write_container(path, CONTENT)
    document = read_container(path)
    assert document["classes"] == CONTENT["classes"]
    assert document["nested"]["list"][:5] == [1, 2.5, None, True, "x"]
    assert document["large"] == -(1 << 63)
    assert document["nested"]["scalar"].shape == ()
    assert document["nested"]["/"][""].tolist() == [1.0]
    np.testing.assert_array_equal(document["parameters"]["a.weight"], CONTENT["parameters"]["a.weight"])
    assert document["parameters"]["empty"].shape == (0, 4)
    assert is_container(path.read_bytes()[:9])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def arrays_of_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, read by the words of the format's own page."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    types = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "u1"}
    found, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        assert start == end, "no gaps"
        kind = np.dtype(types[entry["dtype"]])
        assert start % kind.itemsize == 0, "aligned"
        found[name] = np.frombuffer(data[8 + length + start : 8 + length + stop], kind).reshape(
            entry["shape"]
        )
        end = stop
    assert 8 + length + end == len(data)
    return found


def test_the_file_is_one_of_safetensors(path: Path) -> None:
    write_container(path, CONTENT)
    arrays = arrays_of_safetensors(path.read_bytes())
    np.testing.assert_array_equal(arrays["parameters/a.weight"], CONTENT["parameters"]["a.weight"])
    assert arrays["__crc32__"].tobytes() == struct.pack("<I", zlib.crc32(path.read_bytes()[:-4]))


@pytest.mark.parametrize("kind", [">f4", "<f8", "f2", "i8", "u1", "?", "u4"])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray, lambda array: array[::-1, ::2]])
def test_arrays_of_every_type_and_order_come_back(
    path: Path, kind: str, order: Callable[[Any], np.ndarray]
) -> None:
    array = order(np.arange(6).astype(kind).reshape(2, 3))
    write_container(path, {"x": array})
    found = read_container(path)["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("<")
    assert not found.flags.writeable


def test_arrays_that_are_not_wanted_take_no_memory_and_are_checked(path: Path) -> None:
    write_container(path, {"a": np.ones(9), "b": [np.zeros(3 << 20, np.uint8)], "c": {"d": np.ones(2)}})
    assert read_container(path, arrays_of=("a",))["b"] == [None]
    assert read_container(path, arrays_of=("a",))["a"].sum() == 9
    assert read_container(path, arrays_of=("c",))["c"]["d"].sum() == 2
    data = bytearray(path.read_bytes())
    data[2 << 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ContainerError, match="checksum"):
        read_container(path, arrays_of=("a",))


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(1, "M8[s]"),
        np.zeros(1, np.complex64),
        {1: 2},
        {"$array": "x"},
        {1, 2},
        b"x",
        object(),
    ],
)
def test_what_is_not_plain_data_is_not_written(path: Path, value: Any) -> None:
    with pytest.raises(ContainerError, match="x"):
        write_container(path, {"x": value})
    assert not path.exists()


def test_every_single_bit_that_flips_is_seen(path: Path) -> None:
    write_container(path, {"a": np.arange(3), "b": 1})
    data = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(data)):
            os.pwrite(file.fileno(), bytes([data[bit // 8] ^ 1 << bit % 8]), bit // 8)
            with pytest.raises(ContainerError):
                read_container(path)
            os.pwrite(file.fileno(), data[bit // 8 : bit // 8 + 1], bit // 8)
        read_container(path)
        for length in reversed(range(len(data))):
            file.truncate(length)
            with pytest.raises(ContainerError):
                read_container(path)


def made(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header and a checksum that fits."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    return content + struct.pack("<I", zlib.crc32(content))


def with_arrays(document: Any, **arrays: Any) -> dict[str, Any]:
    crc = {"dtype": "U8", "shape": [4]}
    end = max([entry["data_offsets"][1] for entry in arrays.values() if "data_offsets" in entry], default=0)
    return {
        "__metadata__": {"document": json.dumps(document)},
        **arrays,
        "__crc32__": {**crc, "data_offsets": [end, end + 4]},
    }


def entry(dtype: Any, shape: Any, *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


X = {"x": {"$array": "x"}}
HOSTILE = {
    "a header beyond the end": made({}, length=1 << 40),
    "no header": made(b""),
    "no JSON": made(b"{nothing"),
    "a list": made([1]),
    "no document": made({}),
    "a document that is a list": made(with_arrays([1])),
    "a document that is none": made({"__metadata__": {"document": "{"}}),
    "no checksum": made({"__metadata__": {"document": "{}"}}),
    "deep": made(b'{"a":' + b"[" * 100_000),
    "a deep document": made(with_arrays(json.loads('{"a":' + "[" * 500 + "]" * 500 + "}"))),
    "many parts": made(b'{"a":[' + b"{}," * 2_000_000 + b"0]}"),
    "many parts in the document": made({"__metadata__": {"document": "[" + "[]," * 400_000 + "0]"}}),
    "digits": made(b'{"a":' + b"1" * 4_000_000 + b"}"),
    "digits of a fraction": made(b'{"a":0.' + b"1" * 4_000_000 + b"}"),
    "a terabyte": made(with_arrays(X, x=entry("F64", [1 << 37], 0, 1 << 40))),
    "a shape of no number": made(with_arrays(X, x=entry("F64", [0, 1 << 62], 0, 0))),
    "a shape too large": made(with_arrays(X, x=entry("F64", [1 << 64], 0, 0))),
    "many dimensions": made(with_arrays(X, x=entry("U8", [1] * 40, 0, 1)), b"x"),
    "a shape that is text": made(with_arrays(X, x=entry("U8", "1", 0, 1)), b"x"),
    "a shape of truth": made(with_arrays(X, x=entry("U8", [True], 0, 1)), b"x"),
    "a negative shape": made(with_arrays(X, x=entry("U8", [-1], 0, 1)), b"x"),
    "another type": made(with_arrays(X, x=entry("O", [1], 0, 8)), b"x" * 8),
    "a type that is a list": made(with_arrays(X, x=entry(["U8"], [1], 0, 1)), b"x"),
    "an overlap": made(
        with_arrays({**X, "y": {"$array": "y"}}, x=entry("U8", [2], 0, 2), y=entry("U8", [2], 1, 3)), b"xyz"
    ),
    "a gap": made(with_arrays(X, x=entry("U8", [1], 1, 2)), b"xy"),
    "three offsets": made(with_arrays(X, x=entry("U8", [1], 0, 1, 1)), b"x"),
    "too much data": made(with_arrays(X, x=entry("U8", [1], 0, 1)), b"x" * 9),
    "an array twice": made(with_arrays({"a": [{"$array": "x"}] * 2}, x=entry("U8", [1], 0, 1)), b"x"),
    "an array that is not there": made(with_arrays(X)),
    "the checksum as an array": made(with_arrays({"x": {"$array": "__crc32__"}})),
    "an array of nobody": made(with_arrays({}, x=entry("U8", [1], 0, 1)), b"x"),
    "an array that is a list": made(with_arrays({"x": {"$array": ["x"]}}, x=entry("U8", [1], 0, 1)), b"x"),
    "an entry that is none": made({**with_arrays({}), "x": 3}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_file_claims_is_not_believed(path: Path, what: str) -> None:
    path.write_bytes(HOSTILE[what])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ContainerError) as caught:
        read_container(path)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_file_of_a_terabyte_is_refused_by_its_size(path: Path) -> None:
    write_container(path, CONTENT)
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContainerError, match="1099511627776 bytes are more than"):
        read_container(path)


def test_memory_that_is_not_there_is_told(path: Path) -> None:
    header = json.dumps(with_arrays(X, x=entry("U8", [3 << 30], 0, 3 << 30))).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (3 << 30) + 4)
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from common.container import ContainerError, read_container\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try:\n    read_container(Path(sys.argv[1]))\nexcept ContainerError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "more than there is memory for" in done.stdout, done.stderr
