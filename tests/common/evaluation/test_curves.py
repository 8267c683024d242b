"""Precision, recall and the best threshold are what counting gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.evaluation.curves import ScoreCurve, shortest_between


def f1_at(scores: list[float], right: list[bool], count: int, threshold: float) -> float:
    kept = [hit for score, hit in zip(scores, right, strict=True) if score >= threshold]
    return 2 * sum(kept) / (len(kept) + count)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 10),
)
def test_no_threshold_has_a_greater_f1_than_the_best(rows: list[tuple[int, bool]], missed: int) -> None:
    scores, right = [score / 64 for score, _ in rows], [hit for _, hit in rows]
    count = sum(right) + missed
    curve = ScoreCurve.of(np.array(scores), np.array(right), count)
    best = curve.best()
    if not any(right):
        assert best is None
        return
    assert best is not None
    found = f1_at(scores, right, count, best)
    assert found == pytest.approx(max(f1_at(scores, right, count, score) for score in scores))
    precision, recall, f1 = curve.at(best)
    kept = [hit for score, hit in zip(scores, right, strict=True) if score >= best]
    assert precision == pytest.approx(sum(kept) / len(kept))
    assert recall == pytest.approx(sum(kept) / count)
    assert f1 == pytest.approx(found)


def test_the_best_threshold_is_a_short_number_between_two_scores() -> None:
    curve = ScoreCurve.of(
        np.array([0.91234, 0.71234, 0.31234, 0.21]), np.array([True, True, False, False]), 2
    )
    assert curve.best() == 0.5
    assert shortest_between(0.3, 0.4) == 0.35
    assert shortest_between(0.31, 0.34) == 0.33
    assert shortest_between(0.5, 0.5 + 1e-12) == 0.5 + 1e-12


def test_equal_scores_are_cut_together() -> None:
    curve = ScoreCurve.of(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), 1)
    assert curve.precision.tolist() == [pytest.approx(1 / 3)]


def test_nothing_allows_no_statement() -> None:
    curve = ScoreCurve.of(np.zeros(0), np.zeros(0, bool), 3)
    assert curve.best() is None
    assert curve.at(0.5)[1:] == (0.0, 0.0)
    assert math.isnan(curve.at(0.5)[0])
    assert curve.thinned()["recall"] == []
    assert ScoreCurve.of(np.array([math.nan]), np.array([False]), 0).best() is None


def test_a_thinned_curve_is_short_and_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20000)
    curve = ScoreCurve.of(scores, rng.random(20000) < scores, 15000)
    thin = curve.thinned()
    assert 100 < len(thin["score"]) < 450
    assert thin["recall"][-1] == pytest.approx(curve.recall[-1], abs=1e-4)
    assert max(thin["f1"]) == pytest.approx(curve.f1.max(), abs=1e-4)
