"""Every object has predictions that answer for it, at the place and of the size that the paper asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.yolov3.targets import ANCHORS, STRIDES, assign, grid, known_places


def test_the_grid_lists_scales_from_coarse_to_fine_then_rows_columns_and_anchors() -> None:
    layout = grid((96, 64))
    assert len(layout.cells) == (3 * 2 + 6 * 4 + 12 * 8) * 3
    assert layout.starts == (0, 18, 90)
    np.testing.assert_array_equal(layout.cells[3], [1, 0])
    np.testing.assert_array_equal(layout.cells[9], [0, 1])
    np.testing.assert_array_equal(layout.anchors[1], ANCHORS[2][1])
    np.testing.assert_array_equal(layout.strides[[0, 18, 90], 0], [32, 16, 8])


def test_an_odd_input_size_is_rounded_up_as_the_network_does() -> None:
    assert grid((100, 70)).columns == (4, 7, 13)
    assert grid((100, 70)).rows == (3, 5, 9)


def plain_assign(box: np.ndarray, shape: tuple[int, int], extra: float) -> set[int]:
    """The same, an object and an anchor at a time."""
    x1, y1, x2, y2, _ = (float(v) for v in box)
    w, h = max(x2 - x1, 1e-3), max(y2 - y1, 1e-3)
    found, start, best, best_index = set(), 0, -1.0, -1
    for stride, anchors in zip(STRIDES[::-1], ANCHORS[::-1], strict=True):
        columns, rows = -(-shape[0] // stride), -(-shape[1] // stride)
        column = min(max(int((x1 + x2) / 2 / stride), 0), columns - 1)
        row = min(max(int((y1 + y2) / 2 / stride), 0), rows - 1)
        for number, (aw, ah) in enumerate(anchors):
            overlap = min(w, aw) * min(h, ah)
            iou = overlap / (w * h + aw * ah - overlap)
            index = start + (row * columns + column) * 3 + number
            if iou > best:
                best, best_index = iou, index
            if iou > extra:
                found.add(index)
        start += rows * columns * 3
    return found | {best_index}


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0]))
def test_assignment_equals_the_plain_one(seed: int, extra: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(64, 300)), int(rng.integers(64, 300)))
    boxes = np.full((3, 12, 5), -1, np.float32)
    for image, count in enumerate(rng.integers(0, 13, 3)):
        corners = np.sort(rng.uniform(0, [[shape[0]], [shape[1]]], (count, 2, 2)), axis=-1)
        boxes[image, :count] = np.c_[
            corners[:, 0, 0], corners[:, 1, 0], corners[:, 0, 1], corners[:, 1, 1], np.zeros(count)
        ]
    index, owner = assign(boxes, grid(shape), extra)
    for image in range(3):
        pairs = {(int(o), int(i)) for o, i in zip(owner[image], index[image], strict=True) if i >= 0}
        wanted = {
            (o, i)
            for o, box in enumerate(boxes[image])
            if box[4] >= 0
            for i in plain_assign(box.astype(np.float64), shape, extra)
        }
        # An object exactly between two anchors may fall on either side in single precision.
        assert len(pairs ^ wanted) <= 2 or pairs == wanted


def test_a_batch_without_objects_has_no_positives() -> None:
    index, owner = assign(np.full((2, 4, 5), -1, np.float32), grid((64, 64)), 0.3)
    assert index.shape == owner.shape
    assert (index == -1).all()


def test_batches_of_different_numbers_of_objects_have_one_shape() -> None:
    boxes = np.full((2, 40, 5), -1, np.float32)
    for count in range(1, 41):
        boxes[0, :count] = (10, 10, 40, 40, 0)
        index, owner = assign(boxes, grid((64, 64)), 0.3)
        assert (index >= 0).sum(1)[0] >= count
        assert index.shape == owner.shape == (2, 40 * 9)


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0])
def test_objects_of_a_pixel_or_less_have_an_anchor(size: float) -> None:
    boxes = np.array([[[63, 63, 63 + size, 63 + size, 0]]], np.float32)
    index, _ = assign(boxes, grid((64, 64)), 0.3)
    assert (index >= 0).sum() == 1


def test_cells_that_touch_an_unknown_place_are_not_trained_to_be_empty_and_others_are() -> None:
    layout = grid((96, 64))
    boxes = np.full((2, 4, 5), -1, np.float32)
    boxes[0, 0] = [0, 0, 90, 60, 1]  # an object
    boxes[1, 1] = [30, 20, 50, 30, -1]
    boxes[1, 2] = [64, 0, 65, 1, -3]
    known = known_places(boxes, layout)
    assert known.dtype == np.float32
    assert (known[0] == 1).all()
    low = layout.cells * layout.strides
    high = low + layout.strides
    for number in range(len(layout.cells)):
        touched = any(
            (low[number] < boxes[1, row, 2:4]).all() and (high[number] > boxes[1, row, :2]).all()
            for row in (1, 2)
        )
        assert known[1, number] == (0 if touched else 1)
    assert 0 < known[1].mean() < 1
