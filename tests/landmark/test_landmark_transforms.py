"""A drawn dot lands where its point says, whatever is done to the image."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.samples import Sample
from landmark.mirroring import MIRRORED_68, mirror_table
from landmark.results import LandmarkDecoder
from landmark.transforms import LandmarkTransform

POINTS = np.array([[60.5, 50.5], [150.5, 40.5], [100.5, 110.5], [70.5, 80.5]], np.float32)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Dots of four colours on black, a 200 x 150 image."""
    image = np.zeros((150, 200, 3), np.uint8)
    for (x, y), colour in zip(POINTS, COLOURS, strict=True):
        cv2.circle(image, (int(x), int(y)), 8, colour.tolist(), -1)
    path = tmp_path_factory.mktemp("dots") / "dots.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    return Sample(str(path), 200, 150, POINTS)


def apply(
    transform: LandmarkTransform, sample: Sample, shape: tuple[int, int], seed: int = 0
) -> dict[str, np.ndarray]:
    arrays = {name: np.full((1, *size), 9, kind) for name, (size, kind) in transform.layout(shape).items()}
    out = {name: a[0, ...] for name, a in arrays.items()}
    transform(sample, shape, np.random.default_rng(seed), lambda: sample, out)
    return out


def dots(image: np.ndarray) -> np.ndarray:
    """Centres (4, 2) of the dots in pixels, nan where a dot is not seen."""
    bright, found = image.astype(int) > 128, []
    for colour in COLOURS > 0:
        y, x = np.nonzero((bright == colour).all(axis=2))
        found.append((x.mean() + 0.5, y.mean() + 0.5) if len(x) > 4 else (np.nan, np.nan))
    return np.array(found)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), width=st.integers(100, 250), height=st.integers(100, 250))
def test_a_dot_lands_where_its_point_says(sample: Sample, seed: int, width: int, height: int) -> None:
    out = apply(LandmarkTransform(4, None, degrees=40, **PLAIN), sample, (width, height), seed)
    pixels = out["points"] * (width, height)
    inside = ((pixels > 14) & (pixels < (width - 14, height - 14))).all(axis=1)
    np.testing.assert_allclose(dots(out["image"])[inside], pixels[inside], atol=1.0)
    (back,) = LandmarkDecoder().predictions([out["points"][None]], out["matrix"][None], (width, height))
    np.testing.assert_allclose(back, POINTS, atol=1e-3)


def test_in_a_mirrored_image_a_point_is_its_partner(sample: Sample) -> None:
    transform = LandmarkTransform(4, (1, 0, 2, 3), degrees=0, scale=0, shift=0, **PLAIN)
    orders = set()
    for seed in range(12):
        out = apply(transform, sample, (200, 150), seed)
        pixels = out["points"] * (200, 150)
        found = dots(out["image"])
        order = (0, 1, 2, 3) if found[0, 0] < 100 else (1, 0, 2, 3)
        np.testing.assert_allclose(found[list(order)], pixels, atol=0.6)
        np.testing.assert_allclose(found[2, 0], 100.5 if order[0] == 0 else 99.5, atol=0.6)
        orders.add(order)
    assert len(orders) == 2


def test_images_turn_grow_and_move_within_their_limits(sample: Sample) -> None:
    angles, sizes = [], []
    for seed in range(200):
        out = apply(LandmarkTransform(4, None, degrees=20, scale=0.2, shift=0.05), sample, (200, 150), seed)
        x, y = (out["points"][1] - out["points"][0]) * (200, 150)
        a, b = POINTS[1] - POINTS[0]
        angles.append(np.degrees(np.arctan2(y, x) - np.arctan2(b, a)))
        sizes.append(np.hypot(x, y) / np.hypot(a, b))
        moved = out["points"].mean(axis=0) - POINTS.mean(axis=0) / (200, 150)
        assert (np.abs(moved) <= 0.0501).all()
    assert -20.01 < min(angles) < -15
    assert 15 < max(angles) < 20.01
    assert 1 / 1.201 < min(sizes) < 0.87
    assert 1.15 < max(sizes) < 1.201


def test_the_same_randomness_gives_the_same_sample_also_from_a_pickled_transform(sample: Sample) -> None:
    transform = LandmarkTransform(4, (1, 0, 2, 3))
    first, again = (
        apply(transform, sample, (64, 64), 3),
        apply(pickle.loads(pickle.dumps(transform)), sample, (64, 64), 3),
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_the_table_of_faces_exchanges_left_and_right() -> None:
    assert sorted(MIRRORED_68) == list(range(68))
    assert all(MIRRORED_68[MIRRORED_68[i]] == i for i in range(68))
    assert [i for i in range(68) if MIRRORED_68[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_real_faces_are_symmetric_under_the_table(shared_data: Path) -> None:
    faces = [
        np.loadtxt(path, delimiter=",") for path in (shared_data / "ytf68" / "landmark_train").glob("*.txt")
    ]
    spread = [face / np.ptp(face, axis=0) - (face / np.ptp(face, axis=0)).mean(axis=0) for face in faces]
    mean = np.mean(spread, axis=0)
    np.testing.assert_allclose(mean * (-1, 1), mean[list(MIRRORED_68)], atol=0.05)


def test_a_table_must_be_a_mirroring_of_all_points() -> None:
    assert mirror_table(68) == MIRRORED_68
    assert mirror_table(5) is None
    assert mirror_table(68, []) is None
    assert mirror_table(3, [1, 0, 2]) == (1, 0, 2)
    with pytest.raises(ValueError, match="has 2 entries; 3 keypoints"):
        mirror_table(3, [1, 0])
    with pytest.raises(ValueError, match="entry 0 is 1, so entry 1 must exist and be 0"):
        mirror_table(3, [1, 2, 0])
    with pytest.raises(ValueError, match="entry 1 is 9"):
        mirror_table(2, [0, 9])


def test_invisible_points_stay_so_and_move_the_others_no_less(sample: Sample) -> None:
    points = np.array(POINTS)
    points[1] = np.nan
    hidden = Sample(sample.image, 200, 150, points)
    transform = LandmarkTransform(len(points), (3, 2, 1, 0), **PLAIN)
    places = set()
    for seed in range(8):
        out = apply(transform, hidden, (200, 150), seed)
        (place,) = np.flatnonzero(np.isnan(out["points"]).any(axis=1)).tolist()
        places.add(place)
        there = dots(out["image"])[(slice(None), slice(None, None, -1))[place == 2]]
        seen = ~np.isnan(there).any(axis=1) & (np.arange(4) != place)
        assert np.abs(out["points"][seen] * (200, 150) - there[seen]).max(initial=0) < 2
    assert places == {1, 2}  # mirrored, it is the point that it becomes
