"""Reading YAML from strangers: tables, lists and texts, and nothing that YAML makes of them.

Tags are not looked at, numbers and truth values stay texts, `<<` is a name like any other, and an alias is the very
thing that it names: no file takes more memory or time than its length is worth.
"""

from __future__ import annotations

from typing import Any

import yaml

from common.data.formats.base import FormatError

LIMIT = 512 << 10
"""Bytes of a file: the names of all classes that a set may have."""

DEEPEST = 100

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def load(file: str, text: str) -> Any:
    """The value of the one document that `text` of `file` holds: dict with texts as keys, list, str or None.

    Entries of tables whose keys are no texts are left out. Raises FormatError that names line and column.
    """
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            reason = builder.take(event)
            if reason:
                mark = event.start_mark
                raise FormatError(file, mark.line + 1, f"not YAML that is read: {reason}", mark.column + 1)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise FormatError(file, line, f"not YAML: {reason}", column) from None
    return builder.value


class _Builder:
    """Makes the value of a document of its events."""

    def __init__(self) -> None:
        self.value: Any = None
        self._documents = 0
        self._named: dict[str, Any] = {}
        # Tables and lists that are not at their end yet, and the key that waits for its value in each.
        self._open: list[Any] = []
        self._keys: list[Any] = []

    def take(self, event: Any) -> str:
        """Go on by an event. Returns the reason where that cannot be."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            return "a second document" if self._documents > 1 else ""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._named:
                return "an alias of nothing"
            self._add(self._named[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.style in (None, "")
            self._begin(event, None if plain and event.value in _NULL else event.value)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(self._open) >= DEEPEST:
                return f"nested more than {DEEPEST} deep"
            value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._begin(event, value)
            self._open.append(value)
            self._keys.append(_NONE)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._open.pop()
            self._keys.pop()
        return ""

    def _begin(self, event: Any, value: Any) -> None:
        if event.anchor:
            self._named[event.anchor] = value
        self._add(value)

    def _add(self, value: Any) -> None:
        if not self._open:
            self.value = value
        elif isinstance(self._open[-1], list):
            self._open[-1].append(value)
        elif self._keys[-1] is _NONE:
            self._keys[-1] = value
        else:
            key, self._keys[-1] = self._keys[-1], _NONE
            if isinstance(key, str):
                self._open[-1][key] = value


_NONE = object()
