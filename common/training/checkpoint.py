"""Checkpoints: everything that is kept of a training, as plain data in a `common.container`.

A checkpoint may come from anywhere: its reader makes nothing but containers, text, numbers and arrays, and takes no
more memory than the file is long. Those of version 1.2.0, which were pickles, are read by a reader of their own
(`common.training.pickled`).
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.container import ContainerError, is_container, read_container, write_container
from common.errors import CheckpointError
from common.files import open_regular
from common.training.pickled import is_pickle, read_pickle

FORMAT = "visualtl-checkpoint"
VERSION = 2
_PICKLED_VERSION = 1

LARGEST_PARAMETER = 1e18
"""Beyond it the square of a parameter is infinite in float32."""

LEAST_VARIANCE = -1e-6
"""Of a running variance: rounding may take it below 0, but not so far that the layer's epsilon (1e-5) is used up."""

# Steps that no training comes to: at a thousand a second they take 35 years.
_MOST_STEPS = 1 << 40

# Keys below which there are arrays.
_OF_ARRAYS = ("parameters", "companions", "average", "optimizer", "trained")

# What hooks keep under these names.
_EPOCHS = ("epoch", "best_epoch")
_METRICS = ("value", "tie_break", "best")


def write_checkpoint(path: Path, task: str, content: dict[str, Any]) -> None:
    """Write `content` for the kind of task `task` to `path`, whole or not at all.

    Raises CheckpointError if `content` holds anything but plain data.
    """
    try:
        write_container(path, {"format": FORMAT, "version": VERSION, "task": task, **content})
    except ContainerError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from None


def read_checkpoint(
    path: Path, task: str, required: tuple[str, ...] = (), *, arrays_of: Collection[str] | None = None
) -> dict[str, Any]:
    """Read the checkpoint at `path`, which must be one of `task` and hold the keys `required`.

    arrays_of: keys below which arrays are wanted, where others would take memory for nothing; None: all. Others are not
    to be used: where arrays belong below them, nobody has looked at what is there.

    No code of the file is run, whatever it contains. Raises CheckpointError with one line otherwise.
    """
    try:
        document = _load(path, arrays_of)
        if not isinstance(document, dict) or _text(document.get("format")) != FORMAT:
            raise ContainerError("it is not a checkpoint of this software")
        version = document.get("version")
        if type(version) is not int or version not in (VERSION, _PICKLED_VERSION):
            raise ContainerError(f"its format has version {_short(version)}; this one reads {VERSION}")
        if _text(document.get("task")) != task:
            stored_task = _short(document.get("task"))
            raise ContainerError(f"it is of the task {stored_task}; this script trains {task!r}")
        if version == _PICKLED_VERSION:
            _bring_up_to_date(document)
        missing = [key for key in required if key not in document]
        if missing:
            raise ContainerError(f"it lacks {', '.join(missing)}")
        for key, (fits, kind) in _KINDS.items():
            wanted = arrays_of is None or key in arrays_of or key not in _OF_ARRAYS
            if key in document and wanted and not fits(document[key]):
                raise ContainerError(f"its {key} is not {kind}")
        _check_values(document, arrays_of)
        _check_epochs(document)
    except ContainerError as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    return document


def _load(path: Path, arrays_of: Collection[str] | None) -> Any:
    descriptor = open_regular(path)
    try:
        head = os.read(descriptor, 16)
    finally:
        os.close(descriptor)
    if is_container(head):
        return read_container(path, arrays_of=arrays_of)
    if is_pickle(head):
        return read_pickle(path)
    raise ContainerError("it is damaged or not a checkpoint" if head else "it is empty")


def _bring_up_to_date(document: dict[str, Any]) -> None:
    """Version 1 had the scale of the loss as two numbers of the optimizer."""
    optimizer = document.get("optimizer")
    if isinstance(optimizer, dict) and _number(optimizer.get("loss_scale")):
        optimizer["loss_scale"] = {
            "value": optimizer["loss_scale"],
            "steps": optimizer.pop("steps_at_scale", 0),
        }


def _text(value: Any) -> str | None:
    """`value` if it is text: an array equals nothing in a way that one can ask for."""
    return value if isinstance(value, str) else None


def _short(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        return f"of type {type(value).__name__}" if value is not None else "None"
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def classes_of(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the classes that a checkpoint's network tells apart. Raises CheckpointError if there is none."""
    if not checkpoint["classes"]:
        raise CheckpointError("the checkpoint names no classes")
    return list(checkpoint["classes"])


def _arrays(value: Any) -> bool:
    """Whether `value` holds arrays of numbers by name."""
    return isinstance(value, dict) and all(
        isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in value.values()
    )


def is_finite(array: np.ndarray) -> bool:
    """Whether all numbers of `array` are finite; `np.isfinite(array).all()` takes memory and three times as long."""
    return not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def unusable(values: Mapping[str, np.ndarray]) -> str | None:
    """Why parameters, by name, are not those of a network that computes anything; None if they may be."""
    for name, array in values.items():
        if not array.size:
            continue
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return f"{name} is not finite"
        if max(-low, high) > LARGEST_PARAMETER:
            return f"{name} has numbers beyond {LARGEST_PARAMETER:g}"
        if name.endswith("running_var") and low < LEAST_VARIANCE:
            return f"{name}, a variance, is negative ({low:g})"
    return None


def _check_values(document: dict[str, Any], arrays_of: Collection[str] | None) -> None:
    average = document.get("average")
    for key, places in {
        "parameters": [document.get("parameters")],
        "companions": [document.get("companions")],
        "average": [average.get("trained"), average.get("statistics")] if isinstance(average, dict) else [],
    }.items():
        if arrays_of is None or key in arrays_of:
            for values in places:
                if reason := unusable(values or {}):
                    raise ContainerError(f"its {key} is not usable: {reason[:120]}")


def _check_epochs(document: dict[str, Any]) -> None:
    """Raise ContainerError for an epoch that the job of the checkpoint's configuration cannot have come to."""
    train = document.get("configuration", {}).get("train")
    epochs = train.get("epochs") if isinstance(train, dict) else None
    if not _count(epochs) or "epoch" not in document:
        return
    if isinstance(train, dict) and train.get("minutes"):  # as many as there was time for
        epochs = _MOST_STEPS
    if document["epoch"] >= epochs:
        raise ContainerError(
            f"its epoch is not one of the {epochs} of its configuration: {document['epoch']}"
        )
    for hook, state in document.get("hooks", {}).items():
        for name in _EPOCHS:
            if (state.get(name) or 0) > document["epoch"]:
                raise ContainerError(
                    f"its hooks is not usable: {_short(hook)} has the {name} {state[name]}, which is after its own"
                )


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_STEPS


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _factor(value: Any) -> bool:
    """Whether `value` is a number that others can be multiplied by."""
    return _number(value) and 0 <= value <= LARGEST_PARAMETER


def _epoch(value: Any) -> bool:
    """Whether `value` is the number of an epoch, or None: there was none."""
    return value is None or _count(value)


def _measured(value: Any) -> bool:
    """Whether `value` may be a metric: none of them can be infinitely good."""
    return _number(value) and value != math.inf


def _loss_scale(value: Any) -> bool:
    return _number(value) and 0 < value <= LARGEST_PARAMETER


def _by_name(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether `value` is a dictionary all of whose items fit."""
    return isinstance(value, dict) and all(fits(item) for item in value.values())


def _state(value: Any) -> bool:
    """Whether `value` is what an optimizer may keep of a parameter: nothing, an array, or a list of such."""
    if isinstance(value, list):
        return all(_state(item) for item in value)
    return value is None or (isinstance(value, np.ndarray) and (value.dtype.kind != "f" or is_finite(value)))


def _holds(value: Any, kinds: dict[str, Callable[[Any], bool]]) -> bool:
    """Whether `value` is a dictionary whose items of these names fit."""
    return isinstance(value, dict) and all(
        name not in value or fits(value[name]) for name, fits in kinds.items()
    )


# What belongs under the keys that readers rely on.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
    "model": (lambda value: isinstance(value, dict), "a section of a configuration"),
    "configuration": (lambda value: isinstance(value, dict), "a configuration"),
    "parameters": (_arrays, "a dictionary of arrays of numbers"),
    "companions": (_arrays, "a dictionary of arrays of numbers"),
    "average": (
        lambda value: (
            value is None or _holds(value, {"updates": _count, "trained": _arrays, "statistics": _arrays})
        ),
        "a moving average",
    ),
    "epoch": (_count, "the number of an epoch"),
    "skipped": (_count, "a count"),
    "hooks": (
        lambda value: _by_name(
            value,
            lambda state: (
                _by_name(state, lambda item: item is None or _number(item))
                and _holds(state, {**dict.fromkeys(_EPOCHS, _epoch), **dict.fromkeys(_METRICS, _measured)})
            ),
        ),
        "a dictionary of numbers by hook",
    ),
    "optimizer": (
        lambda value: _holds(
            value,
            {
                "num_update": _count,
                "counts": lambda counts: _by_name(counts, _count),
                "states": lambda states: _by_name(states, _state),
                "m_schedule": lambda product: _number(product) and 0 <= product <= 1,
                "rate_before": _factor,
                "loss_scale": lambda scale: _holds(scale, {"value": _loss_scale, "steps": _count}),
                "skipped_in_a_row": _count,
            },
        ),
        "the state of an optimizer",
    ),
    "multipliers": (
        lambda value: _by_name(
            value, lambda pair: isinstance(pair, list) and len(pair) == 2 and all(map(_factor, pair))
        ),
        "a dictionary of pairs of numbers that are not negative",
    ),
    "stop_reason": (lambda value: value is None or isinstance(value, str), "a text"),
    "loaded": (lambda value: isinstance(value, bool), "true or false"),
    "files": (lambda value: isinstance(value, str), "a text"),
    "valid_files": (lambda value: isinstance(value, str), "a text"),
    "trained": (
        lambda value: isinstance(value, np.ndarray) and (value.dtype, value.ndim) == (np.uint64, 1),
        "an array of marks",
    ),
}
