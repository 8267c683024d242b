"""Checkpoints: plain data in a pickle, read by a reader that can make nothing but plain data.

A checkpoint is a dictionary of containers, numbers, text and numpy arrays. It may come from anywhere, so the reader
refuses every global but the three that numpy's arrays are made of, before anything of the file is used.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import CheckpointError
from common.files import replacing

FORMAT = "visualtl-checkpoint"
VERSION = 1

_multiarray: Any = np.core.multiarray  # whose stubs do not know the function
# numpy writes an array as _reconstruct(ndarray, ...) followed by its dtype and bytes; numpy 2 renamed the module.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(module, "_reconstruct"): _multiarray._reconstruct for module in _MULTIARRAY},
}
_PLAIN = (bool, int, float, str, bytes, type(None))
_NUMBER_KINDS = "biufU"


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            full_name = f"{module}.{name}"
            raise CheckpointError(f"it refers to {full_name!r}, which is not plain data") from None

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError("it refers to data outside of the file")


def _require_plain(value: Any, where: str = "checkpoint") -> None:
    """Raise CheckpointError unless `value` consists of containers, numbers, text and numeric numpy arrays."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, (str, int)):
                raise CheckpointError(f"{where} has a key of type {type(key).__name__}")
            _require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_plain(item, where)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMBER_KINDS:
            raise CheckpointError(f"{where} is an array of {value.dtype}, not of numbers")
    elif not isinstance(value, _PLAIN):
        raise CheckpointError(f"{where} is a {type(value).__name__}, which is not plain data")


def write_checkpoint(path: Path, task: str, content: dict[str, Any]) -> None:
    """Write `content` for the kind of task `task` to `path`, whole or not at all.

    Raises CheckpointError if `content` holds anything but plain data.
    """
    document = {"format": FORMAT, "version": VERSION, "task": task, **content}
    _require_plain(document)
    with replacing(path) as file:
        pickle.dump(document, file, protocol=4)


def read_checkpoint(path: Path, task: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the checkpoint at `path`, which must be one of `task` and hold the keys `required`.

    No code of the file is run, whatever it contains. Raises CheckpointError with one line otherwise.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = _load(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CheckpointError("it is not a checkpoint of this software")
        if document.get("version") != VERSION:
            raise CheckpointError(
                f"its format has version {document.get('version')!r}; this one reads {VERSION}"
            )
        if document.get("task") != task:
            raise CheckpointError(f"it is of the task {document.get('task')!r}; this script trains {task!r}")
        _require_plain(document)
        missing = [key for key in required if key not in document]
        if missing:
            raise CheckpointError(f"it lacks {', '.join(missing)}")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from None
    return document


def _load(data: bytes) -> Any:
    try:
        # A first pass over the opcodes allocates nothing that the file does not hold: a length claimed beyond the
        # file's end, or an opcode that is none, ends here.
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and int(argument or 0) > len(data):
                raise CheckpointError("it is damaged (a memo index beyond its size)")
        return _PlainUnpickler(io.BytesIO(data)).load()
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
