"""Reading a JSON file strictly, and `--set` on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, one_line, shortened
from common.files import read_file

FILE_LIMIT = 4 << 20
"""Most bytes of a configuration: a thousand times what one has."""


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which of its keys stood in the file more than once."""

    twice: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    json_object = JsonObject(pairs)
    seen: set[str] = set()
    json_object.twice = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return json_object


def _whole_number(digits: str) -> int | str:
    """No key takes a number of a hundred digits; Python refuses to convert one of five thousand."""
    return int(digits) if len(digits) <= 100 else digits


def read_json_object(path: Path) -> JsonObject:
    """The object in a JSON file (UTF-8, with or without byte order mark).

    Raises ConfigurationError that names the file and, where there is one, the line and column.
    """
    name = one_line(str(path))
    try:
        data = read_file(path, FILE_LIMIT)
    except FileNotFoundError:
        raise ConfigurationError(f"{name}: there is no such file; --config must name a JSON file") from None
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise ConfigurationError(f"{name}: this is a folder; --config must name a JSON file") from None
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{name}: cannot be read: {reason}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{name}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    if not text.strip():
        raise ConfigurationError(f"{name}: the file is empty; it must hold a JSON object")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise ConfigurationError(f"{name}:{error.lineno}:{error.colno}: this is not JSON: {reason}") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: brackets are nested too deeply") from None
    if not isinstance(value, JsonObject):
        raise ConfigurationError(f'{name}: it must hold a JSON object, such as {{"log_dir": "/out"}}')
    return value


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Put each KEY=VALUE of `--set` into `values`; returns an error line for each that cannot be.

    A value is read as JSON where it is null, a list, an object or quoted text, and stays text otherwise:
    numbers, true and false are accepted as text by the keys that take them, and a folder may be named 2021.
    """
    errors = []
    for override in overrides:
        key, equals, written = override.partition("=")
        *parents, name = key.strip().split(".")
        if not equals or not all([*parents, name]):
            errors.append(
                f"--set {shortened(override)}: it must read KEY=VALUE, for instance --set train.epochs=5"
            )
            continue
        node: Any = values
        for parent in parents:
            node = node.setdefault(parent, JsonObject()) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            section = one_line(".".join(parents))
            errors.append(f"--set {shortened(override)}: {section} is not a section of the configuration")
            continue
        node[name] = _value(written)
    return errors


def _value(written: str) -> Any:
    try:
        value = json.loads(written, object_pairs_hook=_object, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return written
    return value if value is None or isinstance(value, (str, list, dict)) else written
