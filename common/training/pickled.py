"""Reading checkpoints of version 1.2.0, which were pickles (protocol 4).

A pickle is a program for a stack machine. This one knows the instructions alone that such a checkpoint consists of, and
makes containers, text, numbers and arrays of them itself; it calls nothing. It counts as it goes: a file that is no
checkpoint ends at the first instruction that none has, whatever the rest of it would do.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.container import SIZE_LIMIT, ContainerError
from common.files import open_regular

INSTRUCTIONS_LIMIT = 300_000
"""Most instructions of a file: 15 times those of a detector's training state."""

TEXT_LIMIT = 16 << 20
"""Most bytes of text in a file."""

_DEEPEST = 32
_MOST_DIMENSIONS = 32
_LARGEST = 1 << 63
_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_CODE = {
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    ("numpy.core.multiarray", "_reconstruct"): "array",  # numpy 2 renamed the module
    ("numpy._core.multiarray", "_reconstruct"): "array",
}


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins with `head` says that it is a pickle of protocol 2 or later."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def read_pickle(path: Path, limit: int = SIZE_LIMIT) -> Any:
    """The plain data in the pickle `path`, of at most `limit` bytes. Arrays are read-only.

    Raises ContainerError for what no checkpoint holds, and for a damaged file; OSError for what cannot be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ContainerError(f"its {size} bytes are more than the {limit} that are read")
        try:
            return _Machine(file, size).run()
        except MemoryError:
            raise ContainerError(f"its {size} bytes are more than there is memory for") from None


class _Code:
    """A name of numpy's that arrays are made with; nothing is ever called by it."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Made:
    """A type or an array of numpy's, from where it is named to where its state follows. value: none before that."""

    def __init__(self, dtype: np.dtype | None = None) -> None:
        self.dtype = dtype  # none: an array
        self.value: Any = None


class _Held:
    """What lies on the stack, and how deeply it is nested."""

    __slots__ = ("depth", "value")

    def __init__(self, value: Any, depth: int = 0) -> None:
        self.value = value
        self.depth = depth

    def hold(self, inner: _Held) -> Any:
        """The value of `inner`, which becomes a part of this one."""
        self.depth = max(self.depth, inner.depth + 1)
        if self.depth > _DEEPEST:
            raise ContainerError("it is nested too deeply")
        value = inner.value
        if isinstance(value, _Made):
            if not isinstance(value.value, np.ndarray):
                raise ContainerError("it holds something of numpy's that is no array")
            return value.value
        if isinstance(value, (_Code, bytes, tuple)):
            raise ContainerError("it holds something that is no plain data")
        return value


class _Machine:
    """Carries out the instructions in `file`, of `size` bytes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._text = TEXT_LIMIT
        self._stack: list[_Held] = []
        self._marks: list[int] = []
        self._memo: list[_Held] = []

    def run(self) -> Any:
        """What is left on the stack in the end."""
        for _ in range(INSTRUCTIONS_LIMIT):
            instruction = self._take(1)[0]
            if instruction == ord("."):
                if len(self._stack) != 1 or self._marks:
                    break
                return _Held(None).hold(self._stack[0])
            known = _INSTRUCTIONS.get(instruction)
            if known is None:
                place = self._file.tell() - 1
                raise ContainerError(
                    f"it is damaged or not a checkpoint ({instruction:#04x} at byte {place})"
                )
            known(self)
        raise ContainerError("it is damaged or not a checkpoint")

    def _take(self, count: int) -> bytes:
        """The next `count` bytes, which the file must hold."""
        if count > self._left:
            raise ContainerError("it is damaged or not a checkpoint (it ends before its time)")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise ContainerError("it is damaged or not a checkpoint (it ends before its time)")
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _push(self, value: Any) -> None:
        self._stack.append(_Held(value))

    def _pop(self) -> _Held:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ContainerError("it is damaged (it takes what it has not put there)")
        return self._stack.pop()

    def _top(self) -> _Held:
        held = self._pop()
        self._stack.append(held)
        return held

    def _since_mark(self) -> list[_Held]:
        if not self._marks:
            raise ContainerError("it is damaged (it takes what it has not put there)")
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def protocol(self) -> None:
        self._take(1)

    def frame(self) -> None:
        self._take(8)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def text(self, form: str) -> None:
        length = self._number(form)
        self._text -= length
        if self._text < 0:
            raise ContainerError("it holds more text than any checkpoint")
        try:
            self._push(self._take(length).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise ContainerError("it is damaged (a text that is none)") from None

    def data(self, form: str) -> None:
        self._push(self._take(self._number(form)))

    def number(self, form: str) -> None:
        self._push(self._number(form))

    def long(self) -> None:
        length = self._take(1)[0]
        value = int.from_bytes(self._take(length), "little", signed=True)
        if not -_LARGEST <= value < _LARGEST:
            raise ContainerError(f"it holds a whole number of {value.bit_length()} bits")
        self._push(value)

    def constant(self, value: Any) -> None:
        self._push(value)

    def empty(self, kind: type) -> None:
        self._push(kind())

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[_Held]) -> None:
        target = self._top()
        if not isinstance(target.value, list):
            raise ContainerError("it is damaged (it appends to what is no list)")
        target.value.extend([target.hold(item) for item in items])

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self) -> None:
        self._set(self._since_mark())

    def _set(self, pairs: list[_Held]) -> None:
        target = self._top()
        if not isinstance(target.value, dict) or len(pairs) % 2:
            raise ContainerError("it is damaged (it sets items of what is no dictionary)")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key.value) is not str:
                raise ContainerError(f"it has a key of type {type(key.value).__name__}")
            target.value[key.value] = target.hold(value)

    def tuple_of(self, count: int) -> None:
        self._tuple([self._pop() for _ in range(count)][::-1])

    def tuple_since_mark(self) -> None:
        self._tuple(self._since_mark())

    def _tuple(self, items: list[_Held]) -> None:
        """Tuples stand within the making of arrays, where they may hold what nothing else may; see `_reduce`."""
        held = _Held(None)
        held.depth = max((item.depth + 1 for item in items), default=0)
        if held.depth > _DEEPEST:
            raise ContainerError("it is nested too deeply")
        held.value = tuple(item.value for item in items)
        self._stack.append(held)

    def memoize(self) -> None:
        self._memo.append(self._top())

    def get(self, form: str) -> None:
        """Something once more, but no container or array: else a short file would unfold to a long one."""
        index = self._number(form)
        held = self._memo[index] if index < len(self._memo) else None
        value = held.value if held else None
        is_type = isinstance(value, _Made) and value.dtype is not None
        is_small = isinstance(value, bytes) and len(value) <= 1  # numpy names an array of no type "b"
        if not (isinstance(value, (str, _Code)) or is_type or is_small):
            raise ContainerError("it is damaged or not a checkpoint (it refers to what stands elsewhere)")
        self._push(value)

    def name(self) -> None:
        attribute, module = self._pop().value, self._pop().value
        known = (
            _CODE.get((module, attribute)) if isinstance(module, str) and isinstance(attribute, str) else None
        )
        if known is None:
            raise ContainerError(
                f"it refers to {reprlib.repr(f'{module}.{attribute}')}, which is not plain data"
            )
        self._push(_Code(known))

    def reduce(self) -> None:
        arguments, code = self._pop().value, self._pop().value
        name = code.name if isinstance(code, _Code) else None
        if name == "dtype" and isinstance(arguments, tuple) and arguments and isinstance(arguments[0], str):
            if not _NUMBER.fullmatch(arguments[0]):
                raise ContainerError("it holds an array of something else than numbers")
            self._push(_Made(np.dtype(arguments[0])))
        elif name == "array" and isinstance(arguments, tuple):
            self._push(_Made())
        else:
            raise ContainerError("it calls something, which no plain data does")

    def build(self) -> None:
        state, made = self._pop().value, self._top().value
        if not isinstance(made, _Made) or made.value is not None or not isinstance(state, tuple):
            raise ContainerError("it changes something that is no data")
        made.value = _byte_order(made.dtype, state) if made.dtype is not None else _array(state)


def _byte_order(dtype: np.dtype, state: tuple[Any, ...]) -> np.dtype:
    """The complete type, of the state that numpy gives it."""
    if len(state) < 2 or state[1] not in ("<", ">", "|"):
        raise ContainerError("it holds an array of something else than numbers")
    return dtype.newbyteorder(state[1])


def _array(state: tuple[Any, ...]) -> np.ndarray:
    """The array of the state that numpy gives it: version, shape, type, whether by columns, bytes."""
    if len(state) != 5:
        raise ContainerError("it holds an array of something else than numbers")
    _, shape, made, by_columns, data = state
    dtype = made.value if isinstance(made, _Made) else None
    if not (isinstance(dtype, np.dtype) and isinstance(shape, tuple) and isinstance(data, bytes)):
        raise ContainerError("it holds an array of something else than numbers")
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < _LARGEST for n in shape):
        raise ContainerError("it holds an array of no possible shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ContainerError(f"it holds an array of shape {list(shape)[:8]} in {len(data)} bytes")
    if math.prod(filter(None, shape)) * dtype.itemsize >= 1 << 62:  # of an array without any number
        raise ContainerError("it holds an array of no possible shape")
    array: np.ndarray = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return array.reshape(shape, order="F" if by_columns is True else "C")


def _with(method: Any, argument: Any) -> Any:
    return lambda machine: method(machine, argument)


_INSTRUCTIONS: dict[int, Any] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    0x8C: _with(_Machine.text, "<B"),
    ord("X"): _with(_Machine.text, "<I"),
    0x8D: _with(_Machine.text, "<Q"),
    ord("C"): _with(_Machine.data, "<B"),
    ord("B"): _with(_Machine.data, "<I"),
    0x8E: _with(_Machine.data, "<Q"),
    ord("K"): _with(_Machine.number, "<B"),
    ord("M"): _with(_Machine.number, "<H"),
    ord("J"): _with(_Machine.number, "<i"),
    ord("G"): _with(_Machine.number, ">d"),
    0x8A: _Machine.long,
    ord("N"): _with(_Machine.constant, None),
    0x88: _with(_Machine.constant, True),
    0x89: _with(_Machine.constant, False),
    ord("}"): _with(_Machine.empty, dict),
    ord("]"): _with(_Machine.empty, list),
    ord(")"): _with(_Machine.empty, tuple),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    0x85: _with(_Machine.tuple_of, 1),
    0x86: _with(_Machine.tuple_of, 2),
    0x87: _with(_Machine.tuple_of, 3),
    ord("t"): _Machine.tuple_since_mark,
    0x94: _Machine.memoize,
    ord("h"): _with(_Machine.get, "<B"),
    ord("j"): _with(_Machine.get, "<I"),
    0x93: _Machine.name,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
}
