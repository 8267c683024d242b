"""Files of parameters: written here, since MXNet does not notice a disk that is full when it closes a file, and looked
through before they are given to MXNet, whose reader believes every size that a file claims.

The format (MXNet, src/ndarray/ndarray.cc, NDArray::Save): 0x112, a reserved number, then a list of arrays and a list of
names, each after its length. An array is a mark, its kind of storage, its shape, device, type and bytes; files of old
versions have another mark and no kind of storage, very old ones the number of dimensions in place of the mark.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import PretrainedError
from common.files import replacing

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_DEVICES = (1, 2, 3)  # CPU, GPU, CPU memory that a GPU reads
_MOST_DIMENSIONS = 8
_TYPES = {0: "f4", 1: "f8", 2: "f2", 3: "u1", 4: "i4", 5: "i1", 6: "i8"}


def write_parameter_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of one or more dimensions by name as `mxnet.nd.save` would, whole or not at all. Raises OSError."""
    kinds = {np.dtype(kind): number for number, kind in _TYPES.items()}
    with replacing(path) as file:
        file.write(struct.pack("<QQQ", _LIST, 0, len(arrays)))
        for array in arrays.values():
            file.write(struct.pack(f"<Iii{array.ndim}q", _V2, _DENSE, array.ndim, *array.shape))
            file.write(struct.pack("<iii", _DEVICES[0], 0, kinds[array.dtype]))
            file.write(np.ascontiguousarray(array).data)
        file.write(struct.pack("<Q", len(arrays)))
        for name in map(str.encode, arrays):
            file.write(struct.pack("<Q", len(name)) + name)


class _Damaged(Exception):
    """What is wrong, without the file."""


class _Reader:
    """Takes numbers and bytes from a file, and never more than it holds."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> int:
        """Go on by `size` bytes; returns where they begin."""
        start = self.position
        if size > len(self.data) - start:
            raise _Damaged(f"it ends after {len(self.data)} bytes, within something of {size} at {start}")
        self.position += size
        return start

    def numbers(self, form: str) -> tuple[int, ...]:
        """Numbers in the form of `struct`, of little-endian order."""
        return struct.unpack_from(f"<{form}", self.data, self.take(struct.calcsize(f"<{form}")))


def check_parameter_file(path: Path) -> None:
    """Raise PretrainedError, with one line, unless `path` is a whole file of named, dense arrays of finite numbers."""
    try:
        if not path.is_file():
            raise _Damaged("it is no regular file" if path.exists() else "there is no such file")
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise _Damaged("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check(_Reader(data))
    except _Damaged as error:
        raise PretrainedError(f"{path}: not a parameter file, or a damaged one: {error}") from None
    except OSError as error:
        raise PretrainedError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check(reader: _Reader) -> None:
    if reader.numbers("QQ")[0] != _LIST:
        raise _Damaged("it does not begin as one")
    (arrays,) = reader.numbers("Q")
    finite = [_check_array(reader) for _ in _counted(arrays, reader)]
    (names,) = reader.numbers("Q")
    if names != arrays or not names:
        raise _Damaged(f"it has {names} names for {arrays} arrays")
    seen: set[str] = set()
    for good in finite:
        (length,) = reader.numbers("Q")
        start = reader.take(length)
        try:
            name = reader.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise _Damaged("a name is no text") from None
        if not name.isprintable() or name in seen:
            raise _Damaged(f"the name {name[:60]!r} is no name, or stands there twice")
        if not good:
            raise _Damaged(f"{name[:60]} holds numbers that are not finite")
        seen.add(name)


def _counted(count: int, reader: _Reader) -> range:
    """A range of `count`, which must fit into the rest of the file."""
    if count > len(reader.data) - reader.position:
        raise _Damaged(f"it claims {count} arrays")
    return range(count)


def _check_array(reader: _Reader) -> bool:
    """Go past an array. Returns whether all its numbers are finite."""
    (mark,) = reader.numbers("I")
    dimension = "q"
    if mark == _V3:
        raise _Damaged("it was saved with MXNet's NumPy semantics; save it without (mx.npx.reset_np)")
    if mark == _V2:
        (storage,) = reader.numbers("i")
        if storage != _DENSE:
            raise _Damaged(f"an array of storage kind {storage}")
        (dimensions,) = reader.numbers("i")
    elif mark == _V1:
        (dimensions,) = reader.numbers("i")
    else:
        dimensions, dimension = mark, "I"
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"an array of {dimensions} dimensions")
    shape = reader.numbers(f"{dimensions}{dimension}")
    device, _, kind = reader.numbers("iii")
    if min(shape) < 1 or device not in _DEVICES or kind not in _TYPES:
        raise _Damaged(f"an array of shape {list(shape)}, type {kind}, device {device}")
    dtype = np.dtype(_TYPES[kind])
    size = math.prod(shape)
    start = reader.take(size * dtype.itemsize)
    if dtype.kind != "f":
        return True
    return bool(np.isfinite(np.frombuffer(reader.data, dtype, size, start)).all())


def read_parameter_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a parameter file by name, without `arg:` and `aux:`. Raises PretrainedError."""
    check_parameter_file(path)
    reader = _Reader(path.read_bytes())
    reader.numbers("QQ")
    (count,) = reader.numbers("Q")
    arrays = [_array(reader) for _ in range(count)]
    reader.numbers("Q")
    by_name = {}
    for array in arrays:
        (length,) = reader.numbers("Q")
        start = reader.take(length)
        name = reader.data[start : start + length].decode()
        by_name[name.removeprefix("arg:").removeprefix("aux:")] = array
    return by_name


def _array(reader: _Reader) -> np.ndarray:
    (mark,) = reader.numbers("I")
    dimension = "q"
    if mark == _V2:
        reader.numbers("i")
    if mark in (_V1, _V2):
        (dimensions,) = reader.numbers("i")
    else:
        dimensions, dimension = mark, "I"
    shape = reader.numbers(f"{dimensions}{dimension}")
    _, _, kind = reader.numbers("iii")
    dtype = np.dtype(_TYPES[kind])
    start = reader.take(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(reader.data, dtype, math.prod(shape), start).reshape(shape)
