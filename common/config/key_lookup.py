"""The keys of a configuration class: which there are, what each may be, and which one was probably meant."""

from __future__ import annotations

import difflib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.values import Kind
from common.errors import shortened

#: Names that people know from elsewhere.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "weight_decay": "wd",
    "workers": "num_workers",
    "backbone": "base_network",
    "network": "base_network",
    "input_size": "data_shape",
    "output_dir": "log_dir",
    "device": "gpus",
    "patience": "early_stop_patience",
}
# Most characters of a name that are compared with other names: that takes quadratic time.
_LONGEST_NAME = 100
_SCHEMAS = Path(__file__).resolve().parents[2] / "configs"


def shown(value: Any) -> str:
    """A value of a JSON file as it stands there, on one line, shortened if it is long."""
    try:
        written = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError):
        return "this value"
    return shortened(written)


def sections(config_class: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Name -> model of every section ("dataset", "model", "train", ...)."""
    return {
        name: field.annotation
        for name, field in config_class.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def leaves(config_class: type[BaseModel]) -> dict[str, FieldInfo]:
    """Dotted path -> field of every key, in the order of the models."""
    inner = sections(config_class)
    fields: dict[str, FieldInfo] = {}
    for name, field in config_class.model_fields.items():
        if name in inner:
            fields |= {f"{name}.{key}": value for key, value in inner[name].model_fields.items()}
        else:
            fields[name] = field
    return fields


def limits_of(field: FieldInfo) -> dict[str, Any]:
    """The range of a key: ge, gt, le, lt, where it has them."""
    limits: dict[str, Any] = {}
    for item in field.metadata:
        for constraint, name in (
            (annotated_types.Ge, "ge"),
            (annotated_types.Gt, "gt"),
            (annotated_types.Le, "le"),
            (annotated_types.Lt, "lt"),
        ):
            if isinstance(item, constraint):
                limits[name] = getattr(item, name)
    return limits


def changeable(config_class: type[BaseModel]) -> set[str]:
    """Dotted paths of the keys that may have another value when a job is resumed."""
    extras = {path: field.json_schema_extra for path, field in leaves(config_class).items()}
    return {path for path, extra in extras.items() if isinstance(extra, dict) and extra.get("changeable")}


def allowed(field: FieldInfo, chinese: bool = False) -> str:
    """What a key takes, with its limits: "a whole number from 1 to 100"; continues "it must be"."""
    kind = next(item for item in field.metadata if isinstance(item, Kind))
    limits = limits_of(field)
    if not limits:
        return kind.chinese if chinese else kind.english
    if chinese:
        words = {"ge": "不小于 {}", "gt": "大于 {}", "le": "不大于 {}", "lt": "小于 {}"}
        return f"{kind.chinese}，" + " 且".join(words[n].format(limits[n]) for n in words if n in limits)
    if set(limits) == {"ge", "le"}:
        return f"{kind.english} from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    return f"{kind.english} " + " and ".join(words[n].format(limits[n]) for n in words if n in limits)


def nearest(path: str, known: list[str]) -> str:
    """The known dotted path that `path` was probably meant to be: the same key elsewhere, or one like it."""
    section, _, name = path[-_LONGEST_NAME:].rpartition(".")
    name = name.casefold().replace("-", "_")
    name = _OTHER_NAMES.get(name, name)

    def likeness(candidate: str) -> float:
        at, _, key = candidate.rpartition(".")
        alike = difflib.SequenceMatcher(None, name, key).ratio()
        joined = difflib.SequenceMatcher(None, name, candidate.replace(".", "_")).ratio()
        return max(alike, joined) + (0.1 if at == section else 0.0)

    return max(known, key=likeness)


@lru_cache(maxsize=1)
def _published_keys() -> dict[str, set[str]]:
    """Dotted path -> titles of the configurations that have this key, from the schemas in `configs`."""
    titles: dict[str, set[str]] = {}
    for file in sorted(_SCHEMAS.glob("*.schema.json")):
        try:
            schema = json.loads(file.read_text(encoding="utf-8"))
            definitions = schema["properties"]
            for name, definition in definitions.items():
                inner = definition.get("properties", {})
                for path in [f"{name}.{key}" for key in inner] or [name]:
                    titles.setdefault(path, set()).add(schema["title"])
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # Only a hint is lost.
    return titles


def owners(path: str) -> list[str]:
    """Titles of other configurations of this project that have the key `path`."""
    return sorted(_published_keys().get(path, ()))
