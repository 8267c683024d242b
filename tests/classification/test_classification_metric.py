"""The classifier's figures: counted here by hand, there at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from classification.metric import classification_metric, number_or_null, softmax


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 8), st.integers(1, 20))
def test_the_figures_are_those_of_counting_one_by_one(data: st.DataObject, classes: int, count: int) -> None:
    scores = data.draw(
        arrays.arrays(np.float32, (count, classes), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    )
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    metric = classification_metric(scores, labels)
    orders = [sorted(range(classes), key=lambda c, row=row: (-row[c], c)) for row in scores]
    predicted = [order[0] for order in orders]
    assert metric.accuracy == np.mean([p == t for p, t in zip(predicted, labels, strict=True)])
    assert metric.top5 == np.mean([t in order[:5] for order, t in zip(orders, labels, strict=True)])
    for c in range(classes):
        right = sum(p == t == c for p, t in zip(predicted, labels, strict=True))
        for found, total in (
            (metric.precision[c], predicted.count(c)),
            (metric.recall[c], labels.tolist().count(c)),
        ):
            assert np.isnan(found) if total == 0 else found == right / total
        for p in range(classes):
            assert metric.confusion[c, p] == sum(
                pair == (c, p) for pair in zip(labels, predicted, strict=True)
            )


def test_what_is_no_number_is_never_right() -> None:
    scores = np.array([[np.nan, np.nan, 0.1], [0.2, np.nan, 0.1]], np.float32)
    metric = classification_metric(scores, np.array([0, 1]))
    assert metric.accuracy == 0
    assert metric.confusion.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_no_predictions_have_no_accuracy() -> None:
    metric = classification_metric(np.zeros((0, 2)), np.zeros(0))
    assert np.isnan(metric.accuracy)
    assert number_or_null(metric.accuracy) is None
    assert number_or_null(0.5) == 0.5


def test_softmax_bears_large_logits() -> None:
    np.testing.assert_allclose(
        softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3)]])), [[0.5, 0.5], [0.25, 0.75]]
    )
