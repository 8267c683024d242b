"""Numbers from the texts that stand beside images, written by many hands."""

from __future__ import annotations

import codecs
import errno
import os
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from common.data.problems import BadSample, Problem
from common.files import read_file

TEXT_LIMIT = 4 << 20
"""Most bytes of a text beside an image."""

ROW_LIMIT = 10_000
"""Most lines of a text beside an image; the densest public sets have some hundred objects an image."""

_LINE_LIMIT = 1000
_LARGEST = float(np.finfo(np.float32).max)
_SEPARATOR = re.compile(r"\s*,\s*|\s+")
# What stands for a character of ASCII in Chinese and typographic texts: the full-width forms of all of them, blanks,
# minus signs and dashes. (`unicodedata.normalize`, which does more, takes quadratic time for a run of accents.)
_PLAIN = {0xFF01 + index: chr(0x21 + index) for index in range(94)}
_PLAIN |= dict.fromkeys(map(ord, "\u00a0\u1680\u202f\u205f\u3000"), " ") | dict.fromkeys(
    range(0x2000, 0x200B), " "
)
_PLAIN |= dict.fromkeys(map(ord, "\u2212\u2013\u2014\ufe58\ufe63"), "-") | {
    0xFE50: ",",
    0xFE51: ",",
    0x3001: ",",
}
_PLAIN |= {0xFE52: ".", 0xFE62: "+", 0xFEFF: ""}


class Row(NamedTuple):
    """A line of numbers. line: from 1."""

    line: int
    values: list[float]

    @property
    def text(self) -> str:
        """The numbers with commas, however they were written."""
        return ",".join(f"{value:.10g}" for value in self.values)


def annotation_path(image: str) -> str:
    """The text that stands beside an image: its name with the extension .txt, in whichever Unicode form it is there."""
    path = os.path.splitext(image)[0] + ".txt"
    if not path.isascii() and not os.path.lexists(path):
        folder, name = os.path.split(path)
        for form in ("NFC", "NFD"):
            other = os.path.join(folder, unicodedata.normalize(form, name))
            if os.path.lexists(other):
                return other
    return path


def read_rows(image: str, columns: int) -> tuple[str, list[Row]]:
    """Path of the text beside `image`, and its rows of `columns` finite numbers; blank lines are left out.

    Read are UTF-8, UTF-16 with its mark, and GBK; full-width digits, signs and commas; commas, blanks or tabs between
    numbers, and a comma at the end of a line.

    Raises:
        BadSample: there is no such file, it is no text, it is longer than TEXT_LIMIT or ROW_LIMIT, or a row is not
            `columns` numbers within float32.
    """
    path = annotation_path(image)
    rows = []
    # Not splitlines(), which also breaks at characters that no editor counts as the end of a line.
    text = _read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    if (count := text.count("\n")) > ROW_LIMIT:
        raise _bad(path, None, f"its {count} lines are more than the {ROW_LIMIT} that are read")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        line = line.strip().removesuffix(",").rstrip()
        if not line:
            continue
        if len(line) > _LINE_LIMIT:
            raise _bad(path, number, f"{_excerpt(line)}: {len(line)} characters are more than any row has")
        parts = line.split(",")
        if len(parts) != columns:
            parts = _SEPARATOR.split(line)
        if len(parts) != columns:
            raise _bad(path, number, f"{_excerpt(line)}: {len(parts)} values where {columns} belong")
        try:
            values = [float(part) for part in parts]
        except ValueError:
            raise _bad(path, number, f"{_excerpt(line)}: not {columns} numbers") from None
        if "_" in line or not all(-_LARGEST <= value <= _LARGEST for value in values):
            raise _bad(path, number, f"{_excerpt(line)}: not {columns} finite numbers")
        rows.append(Row(number, values))
    return path, rows


def _read_text(path: str) -> str:
    try:
        data = read_file(path, TEXT_LIMIT)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "there is no annotation: the file is missing" if missing else error.strerror or str(error)
        raise _bad(path, None, reason) from None
    if data.isascii() and b"\0" not in data:
        return data.decode()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.translate(_PLAIN)
    raise _bad(path, None, "not a text in UTF-8 or GBK")


def _bad(path: str, line: int | None, reason: str) -> BadSample:
    return BadSample(Problem(path, line, reason))


def _excerpt(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:60] + "…")
