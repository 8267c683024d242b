"""A file of plain data and arrays: JSON and raw numbers, laid out as a safetensors file.

    write_container(path, {"epoch": 3, "parameters": {"weight": np.zeros((2, 3), np.float32)}})
    read_container(path)["parameters"]["weight"]

A safetensors file (https://huggingface.co/docs/safetensors, "Format") is the length of its header in 8 bytes, the
header as JSON, and the arrays one after the other, in little-endian order and without gaps. The header names type,
shape and place of every array. Here it also holds, as text under `__metadata__`, the document itself, in which
`{"$array": NAME}` stands for an array. The largest types come first, so that every array is aligned. The last array,
`__crc32__`, is the CRC-32 of everything before it.

Reading is strict and bounded: what a file claims is compared with its size before anything is made of it, every array
belongs to one place of the document, and a file that is damaged anywhere is refused.
"""

from __future__ import annotations

import functools
import json
import math
import os
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.files import open_regular, replacing

HEADER_LIMIT = 16 << 20
"""Most bytes of a header: twenty times that of the largest network."""

PARTS_LIMIT = 500_000
"""Most commas and brackets of a header or a document: what it may become in memory stays below 100 MB."""

SIZE_LIMIT = 4 << 30
"""Most bytes of a file: nearly twice the training state of the largest network (VGG19 with adam)."""

_TYPES = {
    "F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2", "I16": "<i2",
    "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_ARRAY = "$array"
_CRC = "__crc32__"
_METADATA = "__metadata__"
_DOCUMENT = "document"
_DEEPEST = 32
_MOST_DIMENSIONS = 32
_CHUNK = 1 << 20


class ContainerError(Exception):
    """Why a file is no container, or a value cannot be written to one; without the file's name."""


def write_container(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path`, whole or not at all.

    It holds dictionaries with text as keys, lists, text, numbers (of NumPy too), True, False, None, and arrays of
    numbers, which may have any order in memory. Tuples become lists. Raises ContainerError for anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_plain(document, (), arrays), separators=(",", ":"))
    ordered = sorted(
        arrays.items(), key=lambda item: -item[1].dtype.itemsize
    )  # stable: else as in the document
    header: dict[str, Any] = {_METADATA: {"format": "visualtl", _DOCUMENT: text}}
    offset = 0
    for name, array in [*ordered, (_CRC, np.empty(4, np.uint8))]:
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    if len(written) > HEADER_LIMIT or _parts(text) > PARTS_LIMIT:
        raise ContainerError(f"its header of {len(written)} bytes is longer than any reader takes")
    pieces: list[bytes | memoryview] = [
        struct.pack("<Q", len(written)) + written,
        *(_bytes_of(array) for _, array in ordered),
    ]
    # The checksum of 290 MB takes 0.1 s of a processor, a third of what writing them takes: meanwhile.
    with ThreadPoolExecutor(1) as aside, replacing(path) as file:
        crc = aside.submit(_crc_of, pieces)
        for piece in pieces:
            file.write(piece)
        file.write(struct.pack("<I", crc.result()))


def _bytes_of(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _crc_of(pieces: Iterable[bytes | memoryview]) -> int:
    return functools.reduce(lambda crc, piece: zlib.crc32(piece, crc), pieces, 0)


def _plain(value: Any, where: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON has it, with its arrays, in one piece and little-endian, in `arrays` under names of their own."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    place = "/".join(where) or "document"
    if len(where) > _DEEPEST:
        raise ContainerError(f"{place} is nested too deeply")
    if isinstance(value, dict):
        if any(not isinstance(key, str) or key == _ARRAY for key in value):
            raise ContainerError(f"{place} has a key that is no text")
        return {key: _plain(item, (*where, key), arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*where, str(index)), arrays) for index, item in enumerate(value)]
    if not isinstance(value, np.ndarray):
        raise ContainerError(f"{place} is a {type(value).__name__}, which is not plain data")
    if value.dtype.newbyteorder("<") not in _NAMES:
        raise ContainerError(f"{place} is an array of {value.dtype}, not of numbers")
    name = place
    while name in arrays or name in (_CRC, _METADATA):
        name += "'"
    shape = value.shape  # of no dimension: ascontiguousarray makes it one
    arrays[name] = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(shape)
    return {_ARRAY: name}


def is_container(head: bytes) -> bool:
    """Whether the first 9 bytes of a file, or more, are those of a container."""
    return head[8:9] == b"{"


def read_container(
    path: Path, limit: int = SIZE_LIMIT, *, arrays_of: Collection[str] | None = None
) -> dict[str, Any]:
    """The document in `path`, a file of at most `limit` bytes.

    arrays_of: keys of the document below which arrays are wanted; others are checked, take no memory, and are None.
    Arrays are read-only. Raises ContainerError for what is no container or a damaged one, OSError for what cannot be
    read.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ContainerError(f"its {size} bytes are more than the {limit} that are read")
        try:
            return _read(file, size, arrays_of)
        except MemoryError:
            raise ContainerError(f"its {size} bytes are more than there is memory for") from None


class _CheckedFile:
    """Takes bytes from a file and keeps their CRC-32."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc = 0

    def into(self, memory: memoryview) -> None:
        """Fill `memory`."""
        for start in range(0, len(memory), _CHUNK):
            part = memory[start : start + _CHUNK]
            done = 0
            while done < len(part):
                count = self._file.readinto(part[done:])  # type: ignore[attr-defined]
                if not count:
                    raise ContainerError("it ends before its time")
                done += count
            self.crc = zlib.crc32(part, self.crc)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        memory = bytearray(count)
        self.into(memoryview(memory))
        return bytes(memory)

    def skip(self, count: int) -> None:
        """Go past `count` bytes."""
        memory = memoryview(bytearray(min(count, _CHUNK)))
        for start in range(0, count, _CHUNK):
            self.into(memory[: min(_CHUNK, count - start)])


def _read(file: IO[bytes], size: int, arrays_of: Collection[str] | None) -> dict[str, Any]:
    reader = _CheckedFile(file)
    if size < 8:
        raise ContainerError("it is too short")
    (length,) = struct.unpack("<Q", reader.take(8))
    if length > min(HEADER_LIMIT, size - 8):
        raise ContainerError(f"it claims a header of {length} bytes")
    header = _parsed(reader.take(length), "its header")
    metadata = header.pop(_METADATA, None)
    text = metadata.get(_DOCUMENT) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ContainerError("it holds no document")
    document = _parsed(text, "its document")
    places = list(_places(header, size - 8 - length))
    names = {name for name, _, _ in places} - {_CRC}
    owners: dict[str, str] = {}
    for key, value in document.items():
        for name in _referred(value, 0):
            if name in owners or name not in names:
                raise ContainerError("its document refers to an array that it does not hold, or twice to one")
            owners[name] = key
    if len(owners) != len(names):
        raise ContainerError("it holds an array that belongs to nothing")
    arrays: dict[str, np.ndarray | None] = {}
    for name, kind, shape in places[:-1]:
        if arrays_of is None or owners[name] in arrays_of:
            array = np.empty(shape, kind)
            reader.into(_bytes_of(array))
            array.flags.writeable = False
            arrays[name] = array
        else:
            reader.skip(math.prod(shape) * kind.itemsize)
            arrays[name] = None
    crc = reader.crc
    if places[-1] != (_CRC, np.dtype("|u1"), (4,)) or struct.unpack("<I", reader.take(4))[0] != crc:
        raise ContainerError("its checksum is not that of its content")
    content: dict[str, Any] = _filled(document, arrays)
    return content


def _parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`, which is looked at before anything is made of it."""
    try:
        text = text if isinstance(text, str) else text.decode()
        if _parts(text) > PARTS_LIMIT:
            raise ContainerError(f"{what} has more parts than any that was written")
        value = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError):
        raise ContainerError(f"{what} is damaged") from None
    if not isinstance(value, dict):
        raise ContainerError(f"{what} is damaged")
    return value


def _parts(text: str) -> int:
    """How many values JSON can hold at most."""
    return text.count(",") + text.count("[") + text.count("{")


def _whole_number(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(digits)
    return value


def _places(header: dict[str, Any], size: int) -> Iterator[tuple[str, np.dtype, tuple[int, ...]]]:
    """Name, type and shape of the arrays in the order of their places, which fill `size` bytes."""
    entries = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ContainerError("its header is damaged: what stands there is no array")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _TYPES:
            raise ContainerError("its header is damaged: an array of a type that is none")
        numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
        if any(type(number) is not int or number < 0 for number in numbers) or len(offsets) != 2:
            raise ContainerError("its header is damaged: an array of no possible shape or place")
        if len(shape) > _MOST_DIMENSIONS:
            raise ContainerError("its header is damaged: an array of too many dimensions")
        entries.append((offsets[0], offsets[1], name, np.dtype(_TYPES[kind]), tuple(shape)))
    end = 0
    for start, stop, name, dtype, shape in sorted(
        entries, key=lambda entry: (entry[0], entry[1], entry[2] == _CRC)
    ):
        if start != end or stop - start != math.prod(shape) * dtype.itemsize:
            raise ContainerError("its header is damaged: its arrays do not lie one after the other")
        if math.prod(filter(None, shape)) * dtype.itemsize >= 1 << 62:  # also of an array without any number
            raise ContainerError("its header is damaged: an array of no possible shape or place")
        end = stop
        yield name, dtype, shape
    if end != size or not entries:
        raise ContainerError(f"its arrays are {end} bytes, and it holds {size}")


def _referred(value: Any, depth: int) -> Iterator[str]:
    """Names of the arrays that a part of a document refers to."""
    if depth > _DEEPEST:
        raise ContainerError("its document is nested too deeply")
    if isinstance(value, dict):
        if _ARRAY in value:
            if len(value) != 1 or not isinstance(value[_ARRAY], str):
                raise ContainerError("its document is damaged")
            yield value[_ARRAY]
            return
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        yield from _referred(item, depth + 1)


def _filled(value: Any, arrays: dict[str, np.ndarray | None]) -> Any:
    """A part of a document with its arrays in their places."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _filled(item, arrays) for key, item in value.items()}
    return [_filled(item, arrays) for item in value] if isinstance(value, list) else value
