"""Line and bar charts as SVG of a few kilobytes, in the colours of the page that they stand in.

matplotlib takes a second to import, tens of kilobytes a chart, and knows one theme and one language.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.evaluation.markup import legend
from common.language import Words

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 42
# Colours that the page names; further lines are thin and grey.
_COLOURS = 8
# Points of a line, and of one among many: more are not seen.
_POINTS, _POINTS_OF_MANY = 300, 100


@dataclass(frozen=True)
class Line:
    """A line of a chart; main: drawn on top, and thicker."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    main: bool = False


def line_chart(
    lines: Sequence[Line],
    x_label: Words,
    y_label: Words,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    diagonal: bool = False,
) -> str:
    """A chart of lines through finite points. mark: a vertical line at an x, with its text. diagonal: x = y as well."""
    coloured = len(lines) <= _COLOURS
    finite = [_finite(line, _POINTS if coloured or line.main else _POINTS_OF_MANY) for line in lines]
    x0, x1 = x_range or _extent([x for x, _ in finite])
    y0, y1 = y_range or _extent([y for _, y in finite])
    across = lambda value: _LEFT + (value - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)  # noqa: E731
    down = lambda value: _HEIGHT - _BOTTOM - (value - y0) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)  # noqa: E731
    parts = [_axes((x0, x1), (y0, y1), across, down, x_label, y_label)]
    if diagonal:
        parts.append(
            f'<line class="guide" x1="{across(x0):.1f}" y1="{down(x0):.1f}" x2="{across(x1):.1f}" y2="{down(x1):.1f}"/>'
        )
    order = sorted(range(len(lines)), key=lambda index: lines[index].main)
    for index in order:
        x, y = finite[index]
        name = html.escape(lines[index].name)
        kind = "main" if lines[index].main else f"c{index}" if coloured else "thin"
        points = " ".join(
            f"{across(a):.1f},{down(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)
        )
        if len(x) == 1:
            points = f"{points} {points}"
        parts.append(f'<polyline class="line {kind}" points="{points}"><title>{name}</title></polyline>')
    if mark is not None and x0 <= mark[0] <= x1:
        place = across(mark[0])
        anchor = "end" if mark[0] > (x0 + x1) / 2 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(
            f'<line class="mark" x1="{place:.1f}" y1="{_TOP}" x2="{place:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="mark" x="{place + shift:.1f}" y="{_HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">'
            f"{html.escape(mark[1])}</text>"
        )
    return _svg(parts) + _legend(lines, coloured)


def bar_chart(names: Sequence[str], values: Sequence[float], x_label: Words, y_label: Words) -> str:
    """A bar for each value, named when it is pointed at, and below it where there is room."""
    known = [value if math.isfinite(value) else 0.0 for value in values]
    _, top = _extent([np.array([0.0, *known])])
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(known), 1)
    down = lambda value: _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)  # noqa: E731
    parts = [_axes(None, (0.0, top), lambda value: 0.0, down, x_label, y_label)]
    every = max(1, math.ceil(len(known) / 17))
    for index, (name, value) in enumerate(zip(names, known, strict=True)):
        left = _LEFT + index * step
        parts.append(
            f'<rect class="bar" x="{left + step * 0.1:.1f}" y="{down(value):.1f}" width="{step * 0.8:.1f}" '
            f'height="{_HEIGHT - _BOTTOM - down(value):.1f}"><title>{html.escape(name)}: {value:.4g}</title></rect>'
        )
        if index % every == 0:
            parts.append(
                f'<text x="{left + step / 2:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">'
                f"{html.escape(name[:6])}</text>"
            )
    return _svg(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], about so many."""
    size = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(parts: Sequence[str]) -> str:
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def _axes(
    x_range: tuple[float, float] | None,
    y_range: tuple[float, float],
    across: Callable[[float], float],
    down: Callable[[float], float],
    x_label: Words,
    y_label: Words,
) -> str:
    parts = []
    for value in ticks(*y_range):
        y = down(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    for value in ticks(*x_range) if x_range else ():
        parts.append(
            f'<text x="{across(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>'
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    for language, text in zip(("en", "zh"), x_label, strict=True):
        parts.append(
            f'<text lang="{language}" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{html.escape(text)}</text>"
        )
    for language, text in zip(("en", "zh"), y_label, strict=True):
        parts.append(
            f'<text lang="{language}" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(text)}</text>"
        )
    return "".join(parts)


def _legend(lines: Sequence[Line], coloured: bool) -> str:
    """Names of the lines where they can be told apart, the main one alone elsewhere."""
    shown = [
        (line, "main" if line.main else f"c{index}")
        for index, line in enumerate(lines)
        if coloured or line.main
    ]
    if len(lines) < 2 or not shown:
        return ""
    return legend((kind, html.escape(line.name)) for line, kind in shown)


def _finite(line: Line, most: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.array([math.nan if value is None else value for value in line.x], np.float64)
    y = np.array([math.nan if value is None else value for value in line.y], np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) > most:
        kept = np.linspace(0, len(x) - 1, most).astype(np.int64)
        x, y = x[kept], y[kept]
    return x, y


def _extent(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and greatest value, a little apart."""
    known = np.concatenate([np.zeros(0), *values])
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high - low > 1e-12 * max(abs(low), abs(high), 1e-300) else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    text = f"{value:.4g}"
    return text if "e" not in text else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
