"""What a section of a configuration is, and its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from common.config.key_lookup import limits_of
from common.config.values import number


def key(default: Any, english: str, chinese: str, *, changeable: bool = False, **limits: Any) -> Any:
    """A key of a section: its default (`...`: required), what it means in both languages, its range (ge, gt, le, lt).

    changeable: it says how a training is carried out and watched, or how long it lasts, and not what it is, so that it
    may have another value when a job is resumed.
    """
    extra: dict[str, Any] = {"zh": chinese, **({"changeable": True} if changeable else {})}
    return Field(default, description=english, json_schema_extra=extra, **limits)


def with_default(section: type[Section], name: str, default: Any) -> Any:
    """The key `name` of a section with a task's default."""
    field = section.model_fields[name]
    return Field(
        default, description=field.description, json_schema_extra=field.json_schema_extra, **limits_of(field)
    )


@dataclass(frozen=True)
class Conflict:
    """Values that are all allowed, but not together: `reason` follows the value of the first of `keys`."""

    keys: tuple[str, ...]
    reason: str


class Section(BaseModel):
    """A part of a configuration: it never changes and knows no other keys than its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def conflicts(self) -> Iterator[Conflict]:
        """Values of this section that do not go together."""
        yield from ()


def is_positive(size: Any) -> bool:
    """Whether what a section is given before it is looked at is a number above 0, or text that says one."""
    try:
        return number(size) > 0
    except PydanticCustomError:  # told when its own turn comes
        return False
