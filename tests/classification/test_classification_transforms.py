"""What a classifier is shown: crops that stay inside, exact boxes, repeatable and picklable."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classification.transforms import (
    CropTransform,
    jitter_box,
    random_crop,
)
from common.data.samples import Sample

Shape = tuple[int, int]


def sample_of(
    path: Path, width: int, height: int, box: tuple[float, ...] | None = None, label: int = 3
) -> Sample:
    return Sample(str(path), width, height, np.array([label, *(box or ())], np.float32))


def never() -> Sample:
    raise AssertionError("no other sample is needed")


def apply(transform: CropTransform, sample: Sample, shape: Shape, seed: int = 0) -> np.ndarray:
    """The image; checks the label, and that everything is filled."""
    arrays = {name: np.full((1, *size), 77, kind) for name, (size, kind) in transform.layout(shape).items()}
    transform(
        sample, shape, np.random.default_rng(seed), never, {name: a[0, ...] for name, a in arrays.items()}
    )
    assert arrays["label"][0] == sample.annotation[0]
    assert arrays["image"].shape == (1, shape[1], shape[0], 3)
    return arrays["image"][0]


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """An image that says where each of its pixels is: red is x / 2, green is y."""
    y, x = np.mgrid[0:200, 0:400]
    image = np.stack([x / 2, y, np.full_like(x, 60)], axis=2).astype(np.uint8)
    path = tmp_path / "ramp.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


regions = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(1, 1000), st.floats(1, 1000)).map(
    lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3])
)


@settings(max_examples=100, deadline=None)
@given(regions, st.floats(0.2, 5), st.integers(0, 1000))
def test_a_random_crop_lies_inside_and_has_nearly_the_inputs_aspect(
    region: tuple[float, float, float, float], aspect: float, seed: int
) -> None:
    x1, y1, x2, y2 = random_crop(region, aspect, 0.25, 4 / 3, np.random.default_rng(seed))
    slack = 1e-6 * (1 + region[2] + region[3])
    assert region[0] - slack <= x1 < x2 <= region[2] + slack
    assert region[1] - slack <= y1 < y2 <= region[3] + slack
    assert 0.749 * aspect <= (x2 - x1) / (y2 - y1) <= 1.334 * aspect


def test_random_crops_are_of_all_sizes_and_places() -> None:
    rng = np.random.default_rng(0)
    crops = np.array([random_crop((0, 0, 100, 100), 1.0, 0.25, 4 / 3, rng) for _ in range(2000)])
    areas = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1]) / 1e4
    assert areas.min() < 0.27
    assert areas.max() > 0.95
    np.testing.assert_allclose((crops[:, :2] + crops[:, 2:]).mean(axis=0) / 2, 50, atol=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_a_jittered_box_keeps_most_of_itself_and_stays_inside(seed: int) -> None:
    x1, y1, x2, y2 = jitter_box((0, 10, 50, 100), (60, 100), 0.1, np.random.default_rng(seed))
    assert 0 <= x1 <= 5
    assert 1 <= y1 <= 19
    assert 45 <= x2 <= 55
    assert 91 <= y2 <= 100


def test_training_shows_parts_of_the_image_and_their_mirror_images(ramp: Path) -> None:
    plain = CropTransform(brightness=0, contrast=0, saturation=0, lighting=0)
    mirrored = 0
    for seed in range(40):
        image = apply(plain, sample_of(ramp, 400, 200), (48, 32), seed).astype(int)
        across, down = image[16, -1, 0] - image[16, 0, 0], image[-1, 24, 1] - image[0, 24, 1]
        assert down > 0
        assert abs(across) > 0
        assert (image[:, :, 2] == 60).all()  # nothing beside the image is seen
        mirrored += across < 0
    assert 8 < mirrored < 32


def test_training_on_a_box_stays_near_it(ramp: Path) -> None:
    plain = CropTransform(brightness=0, contrast=0, saturation=0, lighting=0, mirror=0)
    firsts = []
    for seed in range(20):
        image = apply(plain, sample_of(ramp, 400, 200, (100, 40, 200, 140)), (50, 50), seed)
        assert 43 <= image[25, 0, 0] <= 57  # x 90 ... 110, halved
        assert 28 <= image[0, 25, 1] <= 53
        firsts.append(int(image[25, 0, 0]))
    assert len(set(firsts)) > 5


def test_colours_vary(ramp: Path) -> None:
    images = [apply(CropTransform(), sample_of(ramp, 400, 200), (32, 32), seed) for seed in range(10)]
    assert len({tuple(image.reshape(-1, 3).mean(axis=0).round().tolist()) for image in images}) == 10


def test_the_same_randomness_gives_the_same_picture_also_from_a_pickled_transform(ramp: Path) -> None:
    transform = CropTransform()
    sample = sample_of(ramp, 400, 200)
    first = apply(transform, sample, (32, 48), 5)
    again = apply(pickle.loads(pickle.dumps(transform)), sample, (32, 48), 5)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, apply(transform, sample, (32, 48), 6))
