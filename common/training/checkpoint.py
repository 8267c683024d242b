"""Checkpoints: plain data in a pickle, read by a reader that can make nothing but plain data.

A checkpoint is a dictionary of containers, numbers, text and numpy arrays. It may come from anywhere, so the reader
refuses every name of code but the three that numpy's arrays are made of, and makes these arrays itself: numpy trusts
what it is told of sizes and types.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import CheckpointError
from common.files import replacing

FORMAT = "visualtl-checkpoint"
VERSION = 1

# numpy writes an array as _reconstruct(ndarray, ...) followed by its dtype and bytes; numpy 2 renamed the module.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMBER = re.compile(r"(?:b1|[iu][1248]|f[248])|U[0-9]{1,6}")
_MOST_DIMENSIONS = 32
_LARGEST = (
    2**63
)  # of whole numbers: what lies beyond is no count of anything, and cannot be printed at some length
# What a checkpoint may unfold to, as a multiple of its size: a part that stands in several places is written once.
_UNFOLDED = 16
_DEEPEST = 32


class _Shell:
    """Stands for something of numpy's while a file is read; numpy's own would believe whatever state it is given."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("it changes something that is no data")


class _Type(_Shell):
    """A numeric dtype."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if (
            self.value is None
            or not isinstance(state, tuple)
            or len(state) < 2
            or state[1] not in ("<", ">", "|")
        ):
            raise CheckpointError("it holds a type that is none of numbers")
        self.value = self.value.newbyteorder(state[1])


class _Array(_Shell):
    """An array, read-only."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        if not (isinstance(kind, _Type) and isinstance(shape, tuple) and isinstance(data, bytes)):
            raise CheckpointError("it holds an array that is not one of numbers")
        if len(shape) > _MOST_DIMENSIONS or not all(isinstance(n, int) and 0 <= n < _LARGEST for n in shape):
            raise CheckpointError("it holds an array of no possible shape")
        if math.prod(shape) * kind.value.itemsize != len(data):
            raise CheckpointError(f"it holds an array of shape {list(shape)} in {len(data)} bytes")
        self.value = np.frombuffer(data, kind.value) if data else np.empty(0, kind.value)
        self.value = self.value.reshape(shape, order="F" if by_columns else "C")


class _NewType(_Shell):
    """What numpy.dtype is for a file."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _Type:
        if not isinstance(name, str) or not _NUMBER.fullmatch(name):
            raise CheckpointError(f"it holds an array of {_short(name)}, not of numbers")
        made = _Type()
        made.value = np.dtype(name)
        return made


class _NewArray(_Shell):
    """What numpy's `_reconstruct` is for a file: everything about the array follows as its state."""

    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _NewType()
        if (module, name) == ("numpy", "ndarray"):
            return _Shell()  # the first argument of `_reconstruct`
        if module in _MULTIARRAY and name == "_reconstruct":
            return _NewArray()
        raise CheckpointError(f"it refers to {_short(f'{module}.{name}')}, which is not plain data")

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError("it refers to data outside of the file")


class _Plain:
    """Makes a value into one of containers, numbers, text and numeric arrays, where it is not far from that.

    size: how much there may be of it at most, in bytes; text, numbers and containers count as at least one.
    """

    def __init__(self, size: float) -> None:
        self._left = size

    def __call__(self, value: Any, where: str = "checkpoint", depth: int = 0) -> Any:
        """`value`, with arrays for their shells and plain numbers for numpy's. Raises CheckpointError."""
        self._left -= 1
        if isinstance(value, _Array) and value.value is not None:
            value = value.value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (str, bytes)):
            self._left -= len(value)
        elif isinstance(value, np.ndarray):
            self._left -= value.nbytes
        if self._left < 0:
            raise CheckpointError("it unfolds to far more than it holds")
        if depth > _DEEPEST:
            raise CheckpointError("it is nested too deeply")
        if isinstance(value, dict):
            return {
                self._key(key, where): self(item, f"{where}[{_short(key)}]") for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            items = [self(item, where, depth + 1) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biufU":
                raise CheckpointError(f"{where} is an array of {value.dtype}, not of numbers")
        elif isinstance(value, int):
            if not -_LARGEST <= value < _LARGEST:
                raise CheckpointError(f"{where} is a whole number of {value.bit_length()} bits")
        elif not isinstance(value, (float, str, bytes, type(None))):
            raise CheckpointError(f"{where} is a {type(value).__name__}, which is not plain data")
        return value

    def _key(self, key: Any, where: str) -> Any:
        if not isinstance(key, (str, int)):
            raise CheckpointError(f"{where} has a key of type {type(key).__name__}")
        return self(key, where)


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def write_checkpoint(path: Path, task: str, content: dict[str, Any]) -> None:
    """Write `content` for the kind of task `task` to `path`, whole or not at all.

    Raises CheckpointError if `content` holds anything but plain data.
    """
    document = _Plain(math.inf)({"format": FORMAT, "version": VERSION, "task": task, **content})
    with replacing(path) as file:
        pickle.dump(document, file, protocol=4)


def read_checkpoint(path: Path, task: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the checkpoint at `path`, which must be one of `task` and hold the keys `required`.

    No code of the file is run, whatever it contains. Raises CheckpointError with one line otherwise.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: cannot be read: it is no regular file")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = _load(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CheckpointError("it is not a checkpoint of this software")
        if document.get("version") != VERSION:
            version = _short(document.get("version"))
            raise CheckpointError(f"its format has version {version}; this one reads {VERSION}")
        if document.get("task") != task:
            found = _short(document.get("task"))
            raise CheckpointError(f"it is of the task {found}; this script trains {task!r}")
        missing = [key for key in required if key not in document]
        if missing:
            raise CheckpointError(f"it lacks {', '.join(missing)}")
        for key, (fits, kind) in _KINDS.items():
            if key in document and not fits(document[key]):
                raise CheckpointError(f"its {key} is not {kind}")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from None
    return document


def classes_of(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the classes that a checkpoint's network tells apart. Raises CheckpointError if there is none."""
    if not checkpoint["classes"]:
        raise CheckpointError("the checkpoint names no classes")
    return list(checkpoint["classes"])


def _arrays(value: Any) -> bool:
    """Whether `value` holds arrays of finite numbers by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and isinstance(array, np.ndarray)
        and array.dtype.kind == "f"
        and np.isfinite(array).all()
        for name, array in value.items()
    )


# What belongs under the keys that readers rely on.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "model": (lambda value: isinstance(value, dict), "a section of a configuration"),
    "configuration": (lambda value: isinstance(value, dict), "a configuration"),
    "parameters": (_arrays, "a dictionary of arrays of finite numbers"),
    "companions": (_arrays, "a dictionary of arrays of finite numbers"),
    "epoch": (lambda value: isinstance(value, int) and value >= 0, "the number of an epoch"),
    "skipped": (lambda value: isinstance(value, int) and value >= 0, "a count"),
    "hooks": (lambda value: isinstance(value, dict), "a dictionary"),
    "optimizer": (lambda value: isinstance(value, dict), "a dictionary"),
    "multipliers": (lambda value: isinstance(value, dict), "a dictionary"),
    "stop_reason": (lambda value: value is None or isinstance(value, str), "a text"),
    "files": (lambda value: isinstance(value, str), "a text"),
    "valid_files": (lambda value: isinstance(value, str), "a text"),
    "trained": (
        lambda value: isinstance(value, np.ndarray) and value.dtype == np.uint64 and value.ndim == 1,
        "an array of marks",
    ),
}


def _load(data: bytes) -> Any:
    try:
        # A first pass over the opcodes allocates nothing that the file does not hold: a length claimed beyond the
        # file's end, or an opcode that is none, ends here.
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and int(argument or 0) > len(data):
                raise CheckpointError("it is damaged (a memo index beyond its size)")
        size = _UNFOLDED * len(data) + (1 << 20)
        return _Plain(size)(_PlainUnpickler(io.BytesIO(data)).load())
    except CheckpointError:
        raise
    except MemoryError:
        raise CheckpointError("it asks for more memory than there is") from None
    except RecursionError:
        raise CheckpointError("it is nested too deeply") from None
    except (
        Exception
    ) as error:  # whatever a damaged pickle may raise: the file is bad, and that is all there is to say
        raise CheckpointError(f"it is damaged or not a checkpoint ({type(error).__name__})") from None
