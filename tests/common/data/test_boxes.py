"""A box keeps what is inside of its image, and what was done to it is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.boxes import UNKNOWN, clip_box, objects_of, settle_boxes, uncounted

edges = st.floats(-50, 150, width=32)


@settings(max_examples=200, deadline=None)
@given(edges, edges, edges, edges)
def test_a_clipped_box_is_the_part_inside(x1: float, y1: float, x2: float, y2: float) -> None:
    box, reason = clip_box((x1, y1, x2, y2), 100, 50)
    inside = x1 < x2 and y1 < y2 and x1 < 100 and y1 < 50 and x2 > 0 and y2 > 0
    assert (box is not None) == inside
    if box is None:
        assert reason.endswith("left out")
        return
    assert box == [max(x1, 0), max(y1, 0), min(x2, 100), min(y2, 50)]
    assert reason.endswith("clipped") == (box != [x1, y1, x2, y2])


@pytest.mark.parametrize("box", [(0, 0, 100, 50), (1, 2, 3, 4)])
def test_a_box_that_touches_the_edges_is_inside(box: tuple[float, ...]) -> None:
    assert clip_box(box, 100, 50) == (list(box), "")


def test_a_box_too_thin_for_float32_has_no_area() -> None:
    thin = (4096.0, 1.0, float(np.nextafter(4096.0, 5000.0)), 2.0)
    assert clip_box(thin, 5000, 50)[0] is None


def settled(*rows: tuple[float, ...]) -> tuple[list[list[float]], list[tuple[int | None, str, bool]]]:
    given = ((int(row[0]), row[1:], number) for number, row in enumerate(rows, start=1))
    annotation, problems = settle_boxes(given, "1.txt", 100, 50)
    assert annotation.dtype == np.float32
    assert all(problem.file == "1.txt" for problem in problems)
    return annotation.tolist(), [(problem.line, problem.reason, problem.clipped) for problem in problems]


@pytest.mark.parametrize("box", [(90, 40, 60, 10), (60, 40, 90, 10), (90, 10, 60, 40)])
def test_reversed_corners_are_sorted_and_reported(box: tuple[float, ...]) -> None:
    rows, [(line, reason, clipped)] = settled((0, 1, 2, 3, 4), (1, *box))
    assert rows == [[0, 1, 2, 3, 4], [1, 60, 10, 90, 40]]
    assert (line, clipped) == (2, True)
    assert reason.endswith("sorted")
    assert reason.startswith(",".join(map(str, box)))


def test_the_same_object_twice_is_one_and_the_second_is_reported() -> None:
    rows, problems = settled((0, 1, 2, 30, 40), (1, 1, 2, 30, 40), (0, 30, 40, 1, 2), (0, 1, 2, 30, 40))
    assert rows == [[0, 1, 2, 30, 40], [1, 1, 2, 30, 40]]
    assert [(line, "sorted" in reason, "that of line 1" in reason) for line, reason, _ in problems] == [
        (3, True, False),
        (3, False, True),
        (4, False, True),
    ]
    assert all(clipped for _, _, clipped in problems)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((50, 10, 50, 40), [42, 10, 58, 40]),  # a line: as wide as half its height, and 16 pixels at least
        ((0, 25, 100, 25), [0, 0, 100, 50]),
        ((50, 25, 50, 25), [42, 17, 58, 33]),  # a point
        ((0, 10, 0, 40), [0, 10, 8, 40]),
        ((120, 10, 120, 40), None),
        ((110, 10, 120, 40), None),
    ],
)
def test_what_has_no_area_leaves_its_place_unknown_behind_the_objects(
    box: tuple[float, ...], place: list[float] | None
) -> None:
    rows, [(line, reason, clipped)] = settled((3, *box), (0, 1, 2, 3, 4))
    assert rows == [[0, 1, 2, 3, 4], *([[UNKNOWN, *place]] if place else [])]
    assert (line, clipped) == (1, False)
    assert reason.endswith("left out")


def test_what_does_not_count_keeps_its_class_and_stands_behind_the_objects() -> None:
    rows, problems = settled((uncounted(2), 1, 1, 9, 9), (0, 1, 2, 3, 4), (UNKNOWN, 5, 5, 20, 20))
    assert rows == [[0, 1, 2, 3, 4], [-4, 1, 1, 9, 9], [-1, 5, 5, 20, 20]]
    assert problems == []
    assert objects_of(np.array(rows)).tolist() == rows[:1]
