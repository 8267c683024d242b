"""A box keeps what is inside of its image, and what was done to it is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.boxes import clip_box

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
