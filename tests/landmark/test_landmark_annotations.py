"""Keypoints are read as they stand, and what is wrong is said with its place."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from common.data.problems import BadSample
from common.data.samples import Sample
from landmark.annotations import LandmarkAnnotations, mean_shape, summary


def read(folder: Path, text: str, num_joints: int = 3) -> np.ndarray:
    (folder / "1.txt").write_text(text, encoding="utf-8")
    annotate = pickle.loads(pickle.dumps(LandmarkAnnotations(num_joints)))
    (points,), problems = annotate(str(folder / "1.jpg"), 100, 50)
    assert problems == []
    assert points.dtype == np.float32
    return points


def test_points_stand_a_line_each(tmp_path: Path) -> None:
    assert read(tmp_path, "1,2\n3.5，4\n\n100,50\n").tolist() == [[1, 2], [3.5, 4], [100, 50]]


@pytest.mark.parametrize(("text", "found"), [("1,2\n3,4\n", 2), ("1,2\n3,4\n5,6\n7,8\n", 4), ("", 0)])
def test_another_number_of_points_is_said_with_what_was_expected(
    tmp_path: Path, text: str, found: int
) -> None:
    with pytest.raises(BadSample, match=f"{found} keypoints; dataset.num_joints is 3"):
        read(tmp_path, text)


def test_points_a_little_outside_are_kept_and_far_ones_are_a_mistake(tmp_path: Path) -> None:
    assert read(tmp_path, "-40,60\n150,-3\n1,1\n").tolist() == [[-40, 60], [150, -3], [1, 1]]
    with pytest.raises(BadSample, match=r"3,1000: far outside of the 100x50 image"):
        read(tmp_path, "1,2\n3,1000\n5,6\n")


@pytest.mark.parametrize("text", ["1,2\n3\n5,6\n", "1,2\nx,4\n5,6\n", "1,2,3\n4,5,6\n7,8,9\n"])
def test_a_malformed_file_is_left_out(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSample):
        read(tmp_path, text)


def test_a_missing_file_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(BadSample):
        LandmarkAnnotations(3)(str(tmp_path / "2.jpg"), 10, 10)


def test_the_mean_shape_and_the_summary_are_of_the_whole_set() -> None:
    samples = [
        Sample("1.jpg", 100, 50, np.array([[10, 10], [50, 25]], np.float32)),
        Sample("2.jpg", 10, 10, np.array([[3, 4], [7, 11]], np.float32)),
    ]
    np.testing.assert_allclose(mean_shape(samples), [[0.2, 0.3], [0.6, 0.8]], rtol=1e-6)
    assert summary(samples) == {
        "invisible_points": 0,
        "images_with_points_outside": 1,
        "width_of_the_points": {"min": 4.0, "median": 22.0, "max": 40.0},
        "height_of_the_points": {"min": 7.0, "median": 11.0, "max": 15.0},
    }


def test_a_point_at_minus_one_is_invisible_and_one_near_it_is_not(tmp_path: Path) -> None:
    points = read(tmp_path, "-1,-1\n-1,5\n3,4\n")
    np.testing.assert_array_equal(points, [[np.nan, np.nan], [-1, 5], [3, 4]])
    with pytest.raises(BadSample, match="none of its keypoints is visible"):
        read(tmp_path, "-1,-1\n-1.0，-1\n-1,-1\n")


def test_invisible_points_are_counted_and_no_part_of_the_mean_shape() -> None:
    nan = np.nan
    samples = [
        Sample("1.jpg", 100, 50, np.array([[10, 10], [nan, nan], [nan, nan]], np.float32)),
        Sample("2.jpg", 100, 50, np.array([[30, 20], [50, 25], [nan, nan]], np.float32)),
    ]
    told = summary(samples)
    assert told["invisible_points"] == 3
    assert told["images_with_points_outside"] == 0
    assert told["width_of_the_points"] == {"min": 0.0, "median": 10.0, "max": 20.0}
    np.testing.assert_allclose(mean_shape(samples), [[0.2, 0.3], [0.5, 0.5], [0.5, 0.5]])
