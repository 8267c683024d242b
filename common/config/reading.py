"""Reading a file, or what a checkpoint says of a network, into a task's configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from common.config.json_text import JsonObject, apply_overrides, read_json_object
from common.config.messages import explain, known_part
from common.config.sections import JobConfig
from common.config.values import path as folder_of
from common.errors import CheckpointError, ConfigurationError, shortened

C = TypeVar("C", bound=JobConfig)


def read_configuration(
    config_class: type[C], path: Path | None, overrides: Sequence[str] = (), ignored: Collection[str] = ()
) -> C:
    """The configuration in the JSON file `path` (None: there is none), with KEY=VALUE `overrides` in place of single
    keys.

    ignored: sections that have no effect in this job ("model" with --load); they keep their defaults, unread.
    Raises ConfigurationError with a line for every error of the file.
    """
    values = read_json_object(path) if path else JsonObject()
    errors = apply_overrides(values, overrides)
    considered = {name: value for name, value in values.items() if name not in ignored}
    try:
        return configuration(config_class, considered, values.twice, errors)
    except ConfigurationError as error:
        error.log_dir = None if "log_dir" in values.twice else _log_dir_of(values)
        raise


def _log_dir_of(values: Mapping[str, Any]) -> Path | None:
    """The folder that a configuration names where something else is wrong with it."""
    try:
        return folder_of(values["log_dir"]) if "log_dir" in values else None
    except PydanticCustomError:
        return None


def configuration(
    config_class: type[C], values: Mapping[str, Any], twice: Sequence[str] = (), errors: Sequence[str] = ()
) -> C:
    """The configuration that `values`, the content of a JSON file, stand for.

    twice: top-level keys that the file has more than once; errors: lines to report with what is found here.
    Raises ConfigurationError with a line for every error.
    """
    lines = [
        *errors,
        *(f"{shortened(name)}: this key stands in the file more than once; keep one" for name in twice[:50]),
    ]
    known, unknown = known_part(config_class, values)
    lines += unknown
    try:
        config = config_class.model_validate(known)
    except ValidationError as error:
        lines += explain(config_class, known, error)
    if lines:
        raise ConfigurationError("\n".join(dict.fromkeys(lines)))
    return config


def with_model(config: C, section: Mapping[str, Any]) -> C:
    """`config` with its `model` as a checkpoint has it: with --load the network comes from there.

    What BatchNorm goes by in training is no part of a network, though older checkpoints of detectors say it too.

    Raises CheckpointError for a value that the model cannot have.
    """
    kind = type(config.model)
    if not isinstance(section, Mapping):
        raise CheckpointError(
            f"the checkpoint's model section is {shortened(repr(section))}, not a dictionary"
        )
    known = {name: value for name, value in section.items() if name in kind.model_fields and name != "syncbn"}
    try:
        model = kind.model_validate({**config.model.model_dump(), **known})
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in ("model", *details["loc"]))
        raise CheckpointError(
            f"the checkpoint's {path} is {shortened(repr(details['input']))}, which no network has"
        ) from None
    return config.model_copy(update={"model": model})
