"""The metric computes what the definition of VOC's mean average precision says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect import metric as module
from detect.metric import MeanAveragePrecision, excused


def plain_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def plain_average_precision(images: list, class_id: int, threshold: float, method: str) -> float:
    """The definition, one detection after the other."""
    objects = sum(1 for truth, _ in images for row in truth if row[0] == class_id)
    if not objects:
        return math.nan
    ranked = [
        (row[1], number, row[2:])
        for number, (_, detections) in enumerate(images)
        for row in detections
        if row[0] == class_id
    ]
    ranked.sort(key=lambda entry: -entry[0])
    taken, points, hits = set(), [], 0
    for rank, (_, number, box) in enumerate(ranked, 1):
        best, found = 0.0, None
        for index, row in enumerate(images[number][0]):
            if row[0] == class_id and plain_iou(box, row[1:]) > best:
                best, found = plain_iou(box, row[1:]), (number, index)
        if found is not None and best >= threshold and found not in taken:
            taken.add(found)
            hits += 1
        points.append((hits, hits / rank))
    if method == "voc07":
        return sum(max((p for h, p in points if 10 * h >= k * objects), default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0
    for position, (hits, _) in enumerate(points):
        area += (hits - before) / objects * max(p for _, p in points[position:])
        before = hits
    return area


def measured(
    images: list, classes: int, threshold: float = 0.5, method: str = "voc"
) -> tuple[np.ndarray, float]:
    metric = MeanAveragePrecision(classes, threshold, method)
    for truth, detections in images:
        metric.update(
            np.array(truth, np.float64).reshape(-1, 5), np.array(detections, np.float64).reshape(-1, 6)
        )
    return metric.result()


corner = st.integers(0, 7)
length = st.integers(1, 5)
box = st.builds(
    lambda x, y, w, h: [float(x), float(y), float(x + w), float(y + h)], corner, corner, length, length
)
identity = st.integers(0, 3)
truth_row = st.builds(lambda i, b: [float(i), *b], identity, box)
# Few different scores, so that ties are common.
detection_row = st.builds(lambda i, s, b: [float(i), s / 4, *b], identity, st.integers(0, 4), box)
image = st.tuples(st.lists(truth_row, max_size=6), st.lists(detection_row, max_size=10))


@settings(max_examples=200, deadline=None)
@given(st.lists(image, max_size=6), st.sampled_from([0.2, 0.5, 0.75]), st.sampled_from(["voc", "voc07"]))
def test_equals_the_definition_on_random_boxes_with_ties_and_duplicates(
    images: list, threshold: float, method: str
) -> None:
    average_precision, mean = measured(images, 4, threshold, method)
    expected = [plain_average_precision(images, index, threshold, method) for index in range(4)]
    np.testing.assert_allclose(average_precision, expected, atol=1e-6)
    known = [value for value in expected if not math.isnan(value)]
    np.testing.assert_allclose(mean, sum(known) / len(known) if known else math.nan, atol=1e-6)


def random_images(seed: int, count: int) -> list:
    """Images with float boxes, most detections near an object."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        n, m = rng.integers(0, 8), rng.integers(0, 30)
        low = rng.uniform(0, 300, (n, 2))
        truth = np.column_stack([rng.integers(0, 5, n), low, low + rng.uniform(10, 120, (n, 2))])
        loose = rng.uniform(0, 300, (m, 2))
        detections = np.column_stack(
            [rng.integers(0, 5, m), rng.random(m), loose, loose + rng.uniform(10, 120, (m, 2))]
        )
        near = rng.random(m) < 0.7
        if n:
            source = truth[rng.integers(0, n, m)]
            moved = np.column_stack(
                [source[:, 0], detections[:, 1], source[:, 1:] + rng.normal(0, 8, (m, 4))]
            )
            detections[near] = moved[near]
        images.append((truth, detections))
    return images


@pytest.mark.parametrize("method", ["voc", "voc07"])
def test_equals_the_definition_on_crowded_float_boxes(method: str) -> None:
    images = random_images(3, 60)
    expected = [
        plain_average_precision([(t.tolist(), d.tolist()) for t, d in images], i, 0.5, method)
        for i in range(5)
    ]
    average_precision, _ = measured(images, 5, 0.5, method)
    np.testing.assert_allclose(average_precision, expected, atol=1e-9)
    assert average_precision.min() > 0.1


def test_result_does_not_depend_on_how_the_pairs_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(4, 30)
    whole = measured(images, 5)[0]
    for pairs in (1, 3, 50):
        monkeypatch.setattr(module, "_BOXES_AT_A_TIME", pairs)
        np.testing.assert_array_equal(measured(images, 5)[0], whole)


def test_equals_gluoncv_where_both_mean_the_same() -> None:
    """GluonCV adds a pixel to widths and heights and breaks ties at random: shorter boxes, no ties."""
    voc = pytest.importorskip("gluoncv.utils.metrics.voc_detection")
    images = random_images(5, 80)
    theirs = voc.VOCMApMetric(0.5, [f"class{index}" for index in range(5)])
    for truth, detections in images:
        theirs.update(
            detections[None, :, 2:] - [0, 0, 1, 1],
            detections[None, :, 0],
            detections[None, :, 1],
            truth[None, :, 1:] - [0, 0, 1, 1],
            truth[None, :, 0],
        )
    average_precision, mean = measured(images, 5)
    np.testing.assert_allclose([*average_precision, mean], theirs.get()[1], atol=1e-9)


BOX = [0.0, 0.0, 10.0, 10.0]


def test_a_set_without_objects_has_no_mean() -> None:
    average_precision, mean = measured([([], [[0, 0.9, *BOX]])], 2)
    assert np.isnan(average_precision).all()
    assert math.isnan(mean)
    assert math.isnan(measured([], 2)[1])


def test_detections_of_a_class_without_objects_do_not_touch_the_mean() -> None:
    average_precision, mean = measured([([[0, *BOX]], [[0, 0.5, *BOX], [1, 0.9, *BOX]])], 2)
    assert average_precision[0] == mean == 1.0
    assert math.isnan(average_precision[1])


def test_objects_without_detections_count_as_zero() -> None:
    average_precision, mean = measured([([[0, *BOX], [1, *BOX]], [[0, 0.5, *BOX]])], 2)
    assert average_precision.tolist() == [1.0, 0.0]
    assert mean == 0.5


def test_an_overlap_exactly_at_the_threshold_is_right() -> None:
    half = [0.0, 0.0, 10.0, 5.0]
    assert measured([([[0, *BOX]], [[0, 0.5, *half]])], 1, 0.5)[1] == 1.0
    assert measured([([[0, *BOX]], [[0, 0.5, *half]])], 1, 0.5 + 1e-9)[1] == 0.0


def test_a_second_detection_of_an_object_is_wrong() -> None:
    twice = [([[0, *BOX], [0, 50, 50, 60, 60]], [[0, 0.9, *BOX], [0, 0.8, *BOX], [0, 0.7, 50, 50, 60, 60]])]
    assert measured(twice, 1)[1] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_of_equal_scores_the_earlier_detection_counts_first() -> None:
    right, wrong = [0, 0.5, *BOX], [0, 0.5, 50, 50, 60, 60]
    assert measured([([[0, *BOX]], [right, wrong])], 1)[1] == 1.0
    assert measured([([[0, *BOX]], [wrong, right])], 1)[1] == 0.5
    assert measured([([], [wrong]), ([[0, *BOX]], [right])], 1)[1] == 0.5


def test_of_objects_that_overlap_alike_the_first_is_taken() -> None:
    first, second, between = [0.0, 0, 10, 10], [10.0, 0, 20, 10], [5.0, 0, 15, 10]
    found = [[0, 0.9, *between], [0, 0.8, *first]]
    assert measured([([[0, *first], [0, *second]], found)], 1, 0.3)[1] == 0.5
    assert measured([([[0, *second], [0, *first]], found)], 1, 0.3)[1] == 1.0


def test_padding_rows_are_ignored() -> None:
    padding = [-1.0] * 6
    assert measured([([[0, *BOX], padding[:5]], [padding, [0, 0.5, *BOX], padding])], 1)[1] == 1.0


def test_detections_that_are_no_numbers_count_as_wrong_and_last() -> None:
    nan, inf = math.nan, math.inf
    strange = [[0, 0.9, nan, 0, 10, 10], [0, nan, *BOX], [0, 0.8, -inf, -inf, inf, inf]]
    assert measured([([[0, *BOX]], [*strange, [0, 0.5, *BOX]])], 1)[1] == pytest.approx(1 / 3)


def test_updates_accumulate_until_reset() -> None:
    metric = MeanAveragePrecision(1)
    truth, found = np.array([[0, *BOX]]), np.array([[0, 0.5, *BOX]])
    metric.update(truth, found)
    assert metric.result()[1] == metric.result()[1] == 1.0
    metric.update(truth, np.empty((0, 6)))
    assert metric.result()[1] == 0.5
    metric.reset()
    assert math.isnan(metric.result()[1])


def test_later_changes_of_a_given_array_have_no_effect() -> None:
    metric = MeanAveragePrecision(1)
    truth, found = np.array([[0, *BOX]]), np.array([[0, 0.5, *BOX]])
    metric.update(truth, found)
    truth[:] = found[:] = -1
    assert metric.result()[1] == 1.0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"coco.*voc, voc07"):
        MeanAveragePrecision(1, 0.5, "coco")
    metric = MeanAveragePrecision(2)
    with pytest.raises(ValueError, match=r"detections has shape \(0, 5\)"):
        metric.update(np.empty((0, 5)), np.empty((0, 5)))
    with pytest.raises(ValueError, match=r"truth has shape \(1, 6\)"):
        metric.update(np.array([[0, 0.5, *BOX]]), np.empty((0, 6)))
    for truth, found in (
        (np.array([[2, *BOX]]), np.empty((0, 6))),
        (np.empty((0, 5)), np.array([[2, 0.5, *BOX]])),
    ):
        metric.reset()
        metric.update(truth, found)
        with pytest.raises(ValueError, match="class id 2 is given; the highest is 1"):
            metric.result()


def detected(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 6)


def test_detections_of_what_does_not_count_are_neither_right_nor_wrong() -> None:
    truth = np.array([[0, 0, 0, 10, 10], [-2, 50, 50, 60, 60], [-1, 100, 100, 140, 140]], float)
    right = (0, 0.5, 0, 0, 10, 10)
    special = [
        (0, 0.9, 50, 50, 60, 61),  # the object of its class that does not count
        (0, 0.8, 50, 50, 60, 60),  # again
        (1, 0.8, 110, 110, 120, 120),  # in the place of which nothing is known, of whatever class
        (0, 0.7, 100, 100, 150, 140),
    ]
    wrong = [
        (1, 0.9, 50, 50, 60, 60),  # of another class
        (0, 0.9, 50, 50, 54, 54),  # too small a part of it
        (0, 0.6, 130, 100, 170, 140),  # three quarters are beside the place
    ]
    assert excused(truth, detected(*special, right), 0.5).tolist() == [True] * 4 + [False]
    assert not excused(truth, detected(*wrong), 0.5).any()
    for extra, expected in ((special, 1.0), (wrong[1:2], 0.5)):
        metric = MeanAveragePrecision(2)
        metric.update(truth, detected(*extra, right))
        assert metric.result()[0][0] == expected


def test_an_object_in_an_unknown_place_is_found_there_all_the_same() -> None:
    truth = np.array([[0, 10, 10, 20, 20], [-1, 0, 0, 40, 40]], float)
    metric = MeanAveragePrecision(1)
    metric.update(truth, detected((0, 0.9, 10, 10, 20, 20), (0, 0.8, 25, 25, 35, 35)))
    assert metric.result()[1] == 1.0
    missed = MeanAveragePrecision(1)
    missed.update(truth, detected((0, 0.8, 25, 25, 35, 35)))
    assert missed.result()[1] == 0.0
