"""Pieces of a report's HTML: texts in two languages, numbers, tables, charts with a title."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from common.images.decoding import printable
from common.language import Words

#: English and Chinese.


def said(text: Words) -> str:
    """A text in both languages, of which the page shows one; equal ones once."""
    english, chinese = text
    if english == chinese:
        return escaped(english)
    return f'<span lang="en">{escaped(english)}</span><span lang="zh">{escaped(chinese)}</span>'


def escaped(text: Any) -> str:
    """Text as HTML, its lines as they are; control characters and bytes that are no UTF-8 as escapes."""
    return html.escape("\n".join(printable(line) for line in str(text).split("\n")))


def number(value: Any) -> str:
    """A number to four digits; a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], most: int = 1000) -> str:
    """A table of HTML cells, the first of a row its name; rows beyond `most` are counted."""
    listed = list(rows)
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in listed[:most])
    more = f'<p class="soft">… {len(listed) - most}</p>' if len(listed) > most else ""
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>{more}'


def titled(title: Words, chart: str) -> str:
    """A chart below its title."""
    return f"<figure><figcaption>{said(title)}</figcaption>{chart}</figure>"


def folded(title: Words, count: int | None, content: str, *, is_open: bool = False) -> str:
    """Content that is shown when its title is clicked. count: how much it is."""
    told = "" if count is None else f" ({count})"
    return f"<details{' open' * is_open}><summary>{said(title)}{told}</summary>{content}</details>"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Keys of colours: the class of the key and the HTML of its text."""
    keys = "".join(f'<span><i class="key {kind}"></i>{text}</span>' for kind, text in entries)
    return f'<p class="legend">{keys}</p>'
