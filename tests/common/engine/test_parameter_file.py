"""A file of parameters is whole and harmless before MXNet reads it."""

from __future__ import annotations

import struct
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.engine.parameter_file import check_parameter_file, write_parameter_file
from common.errors import PretrainedError

LIST = struct.pack("<QQ", 0x112, 0)
ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "计数": np.array([7], np.int32)}


def array(
    shape: tuple[int, ...], data: bytes, mark: int = 0xF993FAC9, kind: int = 0, device: int = 1
) -> bytes:
    """An array as MXNet writes it."""
    head = struct.pack("<I", mark)
    if mark == 0xF993FAC9:
        head += struct.pack(f"<ii{len(shape)}q", 0, len(shape), *shape)
    elif mark == 0xF993FAC8:
        head += struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    else:
        head += struct.pack(f"<{len(shape)}I", *shape)
    return head + struct.pack("<iii", device, 0, kind) + data


def document(*arrays: bytes, names: tuple[bytes, ...] = (b"a",), count: int | None = None) -> bytes:
    """A file of these arrays."""
    listed = struct.pack("<Q", len(arrays) if count is None else count) + b"".join(arrays)
    named = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return LIST + listed + struct.pack("<Q", len(names)) + named


def stored(folder: Path, data: bytes) -> Path:
    path = folder / "net.params"
    path.write_bytes(data)
    return path


def written(folder: Path) -> bytes:
    """A file as MXNet writes it."""
    path = folder / "net.params"
    mx.nd.save(str(path), {name: mx.nd.array(value, dtype=value.dtype) for name, value in ARRAYS.items()})
    return path.read_bytes()


ONE = struct.pack("<f", 1.0)


def test_what_mxnet_writes_passes_and_is_read_by_mxnet_as_it_was(tmp_path: Path) -> None:
    path = stored(tmp_path, written(tmp_path))
    check_parameter_file(path)
    assert {name: value.asnumpy().tolist() for name, value in mx.nd.load(str(path)).items()} == {
        name: value.tolist() for name, value in ARRAYS.items()
    }


def test_what_is_written_here_is_byte_for_byte_what_mxnet_writes(tmp_path: Path) -> None:
    write_parameter_file(tmp_path / "own.params", {**ARRAYS, "half": np.ones((2, 1, 3), np.float16).T})
    half = mx.nd.ones((3, 1, 2), dtype="float16")
    arrays = {name: mx.nd.array(value, dtype=value.dtype) for name, value in ARRAYS.items()}
    mx.nd.save(str(tmp_path / "mxnet.params"), {**arrays, "half": half})
    assert (tmp_path / "own.params").read_bytes() == (tmp_path / "mxnet.params").read_bytes()


@pytest.mark.parametrize("mark", [0xF993FAC9, 0xF993FAC8, 2])
def test_files_of_every_version_pass_and_mxnet_agrees(tmp_path: Path, mark: int) -> None:
    path = stored(tmp_path, document(array((1, 1), ONE, mark)))
    check_parameter_file(path)
    assert mx.nd.load(str(path))["a"].asnumpy().tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "it does not begin as one"),
        (document(array((1 << 40,), ONE)), "it ends after"),
        (document(array((1 << 40, 1 << 40), ONE)), "it ends after"),
        (document(array((1 << 31,), ONE, mark=1)), "it ends after"),
        (document(count=1 << 60), "it claims 1152921504606846976 arrays"),
        (document(array((1,), ONE), names=(b"x" * 9,))[:-4], "it ends after"),
        (LIST + struct.pack("<Q", 0) + struct.pack("<QQ", 1, 1 << 62), "it has 1 names for 0 arrays"),
        (document(array((1,), ONE), array((1,), ONE), names=(b"a", b"a")), "stands there twice"),
        (document(array((1,), ONE), names=()), "it has 0 names for 1 arrays"),
        (document(array((1,), ONE), names=(b"\xff",)), "a name is no text"),
        (document(array((1,), ONE), names=(b"a\nb",)), "is no name"),
        (document(array((-1,), ONE)), "an array of shape [-1]"),
        (document(array((0,), b"")), "an array of shape [0]"),
        (document(array((), ONE)), "an array of 0 dimensions"),
        (document(array((1,), ONE, mark=0xF993FACA)), "NumPy semantics"),
        (document(array((1,), ONE, kind=99)), "type 99"),
        (document(array((1,), ONE, device=77)), "device 77"),
        (document(array((1,), struct.pack("<f", float("nan")))), "a holds numbers that are not finite"),
    ],
)
def test_a_hostile_file_is_one_line_that_names_it(tmp_path: Path, data: bytes, reason: str) -> None:
    path = stored(tmp_path, data)
    with pytest.raises(PretrainedError) as caught:
        check_parameter_file(path)
    assert str(caught.value).startswith(f"{path}: not a parameter file, or a damaged one: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sparse_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.params"
    mx.nd.save(str(path), {"a": mx.nd.ones((2, 2)).tostype("csr")})
    with pytest.raises(PretrainedError, match="storage kind 2"):
        check_parameter_file(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "no regular file"), (tmp_path / "none", "there is no such file")):
        with pytest.raises(PretrainedError, match=reason):
            check_parameter_file(path)


def test_every_truncated_file_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path)
    for length in range(len(data)):
        with pytest.raises(PretrainedError):
            check_parameter_file(stored(tmp_path, data[:length]))


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_by_mxnet(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(written(folder))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    path = stored(folder, bytes(content))
    try:
        check_parameter_file(path)
    except PretrainedError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert len(mx.nd.load(str(path))) == len(ARRAYS)
