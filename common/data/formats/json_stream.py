"""Reading JSON files of any size an item at a time: in the memory of one item, as fast as Python's parser."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from common.data.formats.base import FormatError
from common.files import open_regular

LARGEST_ITEM = 16 << 20
"""Characters of one item of a list; more is no annotation."""

_CHUNK = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_AFTER = frozenset(",]} \t\r\n")
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def items(path: str) -> Iterator[tuple[str | None, Any, int]]:
    """Key, item and line (from 1) of everything in the JSON file `path`, in its order.

    The top of the file is an object or a list. Lists directly in an object come an item at a time under its key, all
    else as a whole; items of a list at the top have no key. An empty list gives nothing.

    Raises:
        FormatError: the file cannot be read or is not JSON; it names line and column.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            yield from _Scanner(path, file).items()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(path, None, f"cannot be read: {reason}") from None


def _blank_end(text: str, at: int) -> int:
    """Where the blanks at `at` end."""
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()


class _Scanner:
    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text = ""
        self._at = 0
        self._over = False
        self._line = 1
        """Line at `_counted`, a place in `_text`; the last line end before it lies `_column` characters back."""
        self._column = 0
        self._counted = 0

    def items(self) -> Iterator[tuple[str | None, Any, int]]:
        first = self._peek()
        if first == "":
            raise FormatError(self._path, None, "the file is empty")
        if first == "[":
            for value, line in self._list():
                yield None, value, line
        elif first == "{":
            yield from self._object()
        else:
            raise self._error("not JSON: it must begin with { or [")
        if self._peek():
            raise self._error("not JSON: something follows its end")

    def _object(self) -> Iterator[tuple[str | None, Any, int]]:
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            if self._peek() != '"':
                raise self._error("not JSON: a name in double quotes is missing")
            key = self._value()
            if self._peek() != ":":
                raise self._error("not JSON: a colon is missing")
            self._at += 1
            if self._peek() == "[":
                for value, line in self._list():
                    yield key, value, line
            else:
                line = self._here()
                yield key, self._value(), line
            if self._ends("}"):
                return

    def _list(self) -> Iterator[tuple[Any, int]]:
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._peek()
            yield from self._whole_items()
            if not self._peek():
                raise self._error("not JSON: the file ends within a list")
            line = self._here()
            value = self._value()
            yield value, line
            if self._ends("]"):
                return

    def _whole_items(self) -> Iterator[tuple[Any, int]]:
        """Items of a list from here on that have been read with the comma behind them: nearly all, and the fast way."""
        text, at, line = self._text, self._at, self._here()
        while True:
            try:
                value, end = _scan(text, at)
            except (StopIteration, ValueError, RecursionError):  # broken, or cut off
                return
            if not text.startswith(",", end):
                return
            begin = at
            at = self._at = end + 1 if text.startswith("{", end + 1) else _blank_end(text, end + 1)
            yield value, line
            line += text.count("\n", begin, at)

    def _ends(self, bracket: str) -> bool:
        """Go over the comma, or the bracket that ends what is being read."""
        character = self._peek()
        if character not in (bracket, ",") or not character:
            missing = "the file ends too early" if not character else f"a comma or {bracket} is missing"
            raise self._error(f"not JSON: {missing}")
        self._at += 1
        return character == bracket

    def _peek(self) -> str:
        """The next character that is no blank, where `_at` then stands; "" at the end."""
        while True:
            if self._at < len(self._text) and (character := self._text[self._at]) > " ":
                return character
            self._at = _blank_end(self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _value(self) -> Any:
        """The value that begins where `_at` stands."""
        while True:
            problem, offset = "", 0
            try:
                value, end = _scan(self._text, self._at)
                # A number might go on: 2 as 2.5 or 2e5.
                if self._over or self._text[end : end + 1] in _AFTER or not isinstance(value, (int, float)):
                    self._at = end
                    return value
            except StopIteration as error:
                problem, offset = "a value is missing", error.value - self._at
            except json.JSONDecodeError as error:
                problem, offset = error.msg[:1].lower() + error.msg[1:], error.pos - self._at
            except RecursionError:
                raise self._error("brackets are nested too deeply") from None
            except ValueError:
                raise self._error("a number of thousands of digits") from None
            # What is broken may only be cut off.
            if len(self._text) - self._at > LARGEST_ITEM:
                too_long = f"an item of more than {LARGEST_ITEM} characters"
                raise self._error(f"not JSON: {problem}" if problem else too_long, offset)
            if not self._fill() and problem:
                raise self._error(f"not JSON: {problem}", offset)

    def _fill(self) -> bool:
        """Read on; False at the end of the file. What lies before `_at` is given up."""
        if self._over:
            return False
        self._count(self._at)
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, min(len(rest), LARGEST_ITEM + 1 - len(rest))))
        if self._decoder is None:
            wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
            self._decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        try:
            new = self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            self._text, self._at, self._counted = rest, 0, 0
            broken = error.object[error.start]
            raise FormatError(
                self._path, None, f"byte 0x{broken:02x} is not UTF-8; save the file as UTF-8"
            ) from None
        self._over = not data
        self._text, self._at, self._counted = rest + new, 0, 0
        return bool(data)

    def _count(self, place: int) -> None:
        lines = self._text.count("\n", self._counted, place)
        if lines:
            self._line += lines
            self._column = place - self._text.rfind("\n", self._counted, place) - 1
        else:
            self._column += place - self._counted
        self._counted = place

    def _here(self) -> int:
        self._count(self._at)
        return self._line

    def _error(self, reason: str, offset: int = 0) -> FormatError:
        """An error so many characters behind the place that is read."""
        self._count(self._at + offset)
        return FormatError(self._path, self._line, reason, self._column + 1)
