"""Reading XML from strangers: no entities, no document types, bounded sizes, and the line of every element."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from common.data.formats.base import MOST_OBJECTS, bad, read_bytes

DEEPEST = 100
MOST_ELEMENTS = 50_000_000
LONGEST_TEXT = 1 << 20
MOST_WITHIN = 20 * MOST_OBJECTS
"""Elements within one that is given as a whole: what tools say of the objects of an image."""

_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(slots=True)
class Element:
    """An element with its attributes, its text without blanks around it, and the line that it begins on.

    cut: it has more than MOST_WITHIN elements, and the further ones are not there. Only elements without others have a
    text.
    """

    tag: str
    line: int
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)
    cut: bool = False

    def child(self, tag: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, tag: str) -> list[Element]:
        """All children of that name."""
        return [child for child in self.children if child.tag == tag]

    def value(self, tag: str) -> str:
        """The text of the first child of that name; "" where there is none."""
        child = self.child(tag)
        return "" if child is None else child.text


class _Refused(Exception):
    pass


def parse(path: str, limit: int) -> Element:
    """The root element of a file of at most `limit` bytes. Raises BadSample that names the line."""
    for element in elements(path, limit, 1):
        if element.cut:
            raise bad(path, None, f"more than {MOST_WITHIN} elements; no image has so many")
        return element
    raise bad(path, None, "holds no element")


def elements(path: str, limit: int, depth: int) -> Iterator[Element]:
    """Whole elements of a depth (1: the root), one after the other; each is given up when the next is asked for.

    The file is read at once and parsed in parts. Raises BadSample that names the line.
    """
    data = read_bytes(path, limit)
    declared = _ENCODING.match(data[:200])
    # Of encodings of several bytes the parser knows UTF alone.
    encoding = None
    if declared and declared[1].lower().startswith(b"gb"):
        try:
            data, encoding = data.decode("gb18030").encode(), "utf-8"
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise bad(path, line, f"byte 0x{data[error.start]:02x} is not {declared[1].decode()}") from None
    builder = _Builder(depth)
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(
        tag, attributes, parser.CurrentLineNumber
    )
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    step = 1 << 20
    for start in range(0, max(1, len(data)), step):
        try:
            parser.Parse(data[start : start + step], start + step >= len(data))
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise bad(path, error.lineno, f"column {error.offset + 1}: not XML: {reason}") from None
        except _Refused as error:
            raise bad(path, parser.CurrentLineNumber, str(error)) from None
        except ValueError as error:  # an encoding that there is not
            raise bad(path, 1, f"not XML: {error}") from None
        yield from builder.finished
        builder.finished.clear()


class _Builder:
    def __init__(self, depth: int) -> None:
        self.finished: list[Element] = []
        self._depth = depth
        self._open: list[Element | None] = []
        self._count = 0
        self._within = 0

    def refuse(self, *_: object) -> None:
        raise _Refused(
            "holds a document type or entities, which annotations do not need and readers must not follow"
        )

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
        self._count += 1
        if len(self._open) >= DEEPEST or self._count > MOST_ELEMENTS:
            raise _Refused("has more elements, or deeper ones, than annotations have")
        level = len(self._open) + 1
        if level == self._depth:
            self._within = 0
        self._within += 1
        element = None
        if level == self._depth or (level > self._depth and self._within <= MOST_WITHIN):
            element = Element(tag, line, attributes)
        if level > self._depth:
            parent = self._open[-1]
            if element is None:
                whole = self._open[self._depth - 1]
                assert whole is not None
                whole.cut = True
            elif parent is not None:
                parent.children.append(element)
        self._open.append(element)

    def end(self, tag: str) -> None:
        element = self._open.pop()
        if element is not None:
            element.text = element.text.strip()
            if len(self._open) + 1 == self._depth:
                self.finished.append(element)

    def characters(self, text: str) -> None:
        element = self._open[-1] if self._open else None
        # Between the elements within another there are blanks; adding up what else is there would take its square.
        if element is not None and not element.children:
            if len(element.text) > LONGEST_TEXT:
                raise _Refused(f"<{element.tag[:50]}> holds more than {LONGEST_TEXT} characters")
            element.text += text
