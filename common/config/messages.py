"""What is wrong with a configuration, a line for each error: dotted path, value, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from common.config.json_text import JsonObject
from common.config.key_lookup import allowed, leaves, nearest, owners, sections, shown
from common.errors import one_line, shortened

_TOO_SMALL = ("greater_than_equal", "greater_than")
# Most unknown keys that are told one by one.
_MOST_UNKNOWN = 50
_TOO_LARGE = ("less_than_equal", "less_than")


def known_part(config_class: type[BaseModel], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`values` without what `config_class` does not know, and a line for each thing left out.

    "$schema", by which editors find a file's JSON Schema, is left out silently.
    """
    inner = sections(config_class)
    known: dict[str, Any] = {}
    lines: list[str] = []
    unknown: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name == "$schema":
            continue
        if name not in config_class.model_fields:
            unknown.append((name, value))
        elif name not in inner:
            known[name] = value
        elif not isinstance(value, dict):
            example = next(iter(inner[name].model_fields))
            lines.append(
                f'{name}: {shown(value)} is not a section: it must be an object such as {{"{example}": ...}}'
            )
        else:
            fields = inner[name].model_fields
            known[name] = {key: item for key, item in value.items() if key in fields}
            unknown += [(f"{name}.{key}", value[key]) for key in value if key not in fields]
            twice = value.twice if isinstance(value, JsonObject) else ()
            lines += [
                f"{name}.{shortened(key)}: this key stands in the file more than once; keep one"
                for key in twice[:_MOST_UNKNOWN]
            ]
    lines += [_unknown(config_class, path, value) for path, value in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        more = len(unknown) - _MOST_UNKNOWN - 1
        lines.append(f"{shortened(unknown[_MOST_UNKNOWN][0])}: this key and {more} more are unknown, too")
    return known, lines


def _unknown(config_class: type[BaseModel], path: str, value: Any) -> str:
    inner = sections(config_class)
    if path in (known := leaves(config_class)):
        section, _, name = path.rpartition(".")
        return f'{path}: {shown(value)} is at the wrong place: write it as {{"{section}": {{"{name}": ...}}}}'
    candidates = list(inner) if "." not in path and isinstance(value, dict) else list(known)
    others = owners(path)
    elsewhere = f" (a key of {', '.join(others)})" if others else ""
    return (
        f"{shortened(path)}: {shown(value)} is given for an unknown key{elsewhere}: "
        f"the nearest known key is {nearest(path, candidates)}"
    )


def explain(config_class: type[BaseModel], known: Mapping[str, Any], error: ValidationError) -> list[str]:
    """A line for every error that `config_class` finds in the `known` part of a configuration.

    Conflicts between values are looked for only when every value is allowed, so a second look is taken
    without the values that are not; conflicts in which one of these takes part are left out.
    """
    if conflicts := _conflicts(config_class, known, error, set()):
        return conflicts
    fields = leaves(config_class)
    lines: list[str] = []
    rest: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in known.items()}
    wrong: set[str] = set()
    for item in error.errors(include_url=False):
        section, name = (
            (str(item["loc"][0]), str(item["loc"][1])) if len(item["loc"]) > 1 else ("", str(item["loc"][0]))
        )
        path = f"{section}.{name}" if section else name
        if path in wrong:
            continue
        wrong.add(path)
        holder = rest.setdefault(section, {}) if section else rest
        requirement = f"it must be {allowed(fields[path])}"
        if item["type"] == "missing":
            lines.append(f"{path}: missing: {requirement}")
            holder[name] = "unset"
            continue
        value = holder.pop(name)
        if fields[path].is_required():
            holder[name] = "unset"
        lines.append(f"{path}: {shown(value)} {_reason(item)}: {requirement}{_hint(requirement, value)}")
    try:
        config_class.model_validate(rest)
    except ValidationError as second:
        lines += _conflicts(config_class, rest, second, wrong)
    return lines


def _reason(item: Mapping[str, Any]) -> str:
    if item["type"] in _TOO_SMALL:
        return "is too small"
    if item["type"] in _TOO_LARGE:
        return "is too large"
    return one_line(str(item["ctx"]["reason"])) if item["type"] == "refused" else "is not allowed"


def _hint(requirement: str, value: Any) -> str:
    """The nearest of many names."""
    _, separator, listed = requirement.partition("one of ")
    if not separator or not isinstance(value, str) or len(choices := listed.split(", ")) < 4:
        return ""
    return f"; the nearest is {nearest(value, choices)}"


def _conflicts(
    config_class: type[BaseModel], values: Mapping[str, Any], error: ValidationError, wrong: set[str]
) -> list[str]:
    fields = leaves(config_class)
    lines = []
    for item in error.errors(include_url=False):
        for conflict in item.get("ctx", {}).get("conflicts", ()):
            if wrong.isdisjoint(conflict.keys):
                section, _, name = conflict.keys[0].rpartition(".")
                given = (values.get(section, {}) if section else values).get(
                    name, fields[conflict.keys[0]].default
                )
                lines.append(f"{conflict.keys[0]}: {shown(given)} {conflict.reason}")
    return lines
