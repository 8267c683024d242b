"""Charts show the numbers that they are given, whatever they are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from common.evaluation.charts import Line, bar_chart, line_chart, ticks

LABELS = ("across", "横"), ("up", "竖")


def points(chart: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
        for text in re.findall(r'points="([^"]*)"', chart)
    ]


def test_larger_values_lie_further_up_and_to_the_right() -> None:
    [line] = points(line_chart([Line("a", [0, 1, 2], [0, 5, 10])], *LABELS))
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)


@pytest.mark.parametrize(
    "values", [[], [math.nan], [1.0], [2.0, 2.0], [0.0, 1e-300], [1e30, -1e30], [None, 3.0]]
)
def test_any_numbers_make_a_chart(values: list[float]) -> None:
    chart = line_chart([Line("a", list(range(len(values))), values)], *LABELS)
    ElementTree.fromstring(chart)
    assert "nan" not in chart
    assert "inf" not in chart
    if values and None not in values:
        ElementTree.fromstring(bar_chart(["a"] * len(values), [abs(value) for value in values], *LABELS))


def test_long_lines_are_thinned_and_many_classes_are_grey() -> None:
    chart = line_chart([Line("a", range(10000), range(10000))], *LABELS)
    assert len(points(chart)[0]) == 300
    lines = [Line(f"class{index}", [0, 1], [0, 1], main=index == 3) for index in range(50)]
    chart = line_chart(lines, *LABELS)
    assert chart.count('class="line thin"') == 49
    assert chart.rindex('class="line main"') > chart.rindex('class="line thin"')


def test_names_are_text() -> None:
    evil = "</title><script>alert(1)</script>"
    for chart in (
        line_chart([Line(evil, [0], [0]), Line("b", [0], [0])], *LABELS),
        bar_chart([evil], [1.0], *LABELS),
    ):
        assert "<script" not in chart


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 17.0), (0.00012, 0.00019), (5.0, 5000.0)])
def test_ticks_are_few_round_numbers_within_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
