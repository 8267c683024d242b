"""What a ReID network is shown: the whole box, shifted a little, sometimes partly erased."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from common.data.samples import Sample
from common.images.augment import MEAN_COLOUR
from reid.transforms import ShiftTransform

SHAPE = (64, 128)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """An image whose red is 2 x and whose green is y, 100 x 200."""
    y, x = np.mgrid[0:200, 0:100]
    path = tmp_path / "ramp.png"
    cv2.imwrite(str(path), np.stack([2 * x, y, np.full_like(x, 60)], axis=2).astype(np.uint8)[:, :, ::-1])
    return Sample(str(path), 100, 200, np.array([5], np.float32))


def apply(transform: ShiftTransform, sample: Sample, seed: int = 0) -> np.ndarray:
    arrays = {name: np.full((1, *size), 9, kind) for name, (size, kind) in transform.layout(SHAPE).items()}
    transform(
        sample,
        SHAPE,
        np.random.default_rng(seed),
        lambda: sample,
        {name: a[0, ...] for name, a in arrays.items()},
    )
    assert arrays["label"][0] == 5
    return arrays["image"][0].astype(int)


def test_training_shifts_by_no_more_than_the_padding_and_shows_plain_colour_beside(sample: Sample) -> None:
    plain = ShiftTransform(erasing=0, brightness=0, contrast=0, saturation=0, mirror=0, padding=0.1)
    shifts = []
    for seed in range(30):
        image = apply(plain, sample, seed)
        beside = (image == MEAN_COLOUR).all(axis=2)
        shifts.append((beside[64].sum(), beside[:, 32].sum()))
        inside = image[64][~beside[64]][:, 0]
        assert (np.diff(inside) > 0).all()
    across, down = np.array(shifts).T
    assert 3 < across.max() <= 7
    assert 6 < down.max() <= 13
    assert min(across.min(), down.min()) < 2


def test_half_of_the_pictures_are_mirrored_and_half_partly_erased(sample: Sample) -> None:
    plain = ShiftTransform(brightness=0, contrast=0, saturation=0)
    mirrored = erased = 0
    for seed in range(60):
        image = apply(plain, sample, seed)
        mirrored += np.median(image[:, :20, 0]) > np.median(image[:, -20:, 0])
        usual = (np.abs(image[:, :, 2] - 60) <= 2) | (image == MEAN_COLOUR).all(axis=2)
        erased += usual.mean() < 0.985
    assert 18 < mirrored < 42
    assert 18 < erased < 42


def test_the_same_randomness_gives_the_same_picture(sample: Sample) -> None:
    assert np.array_equal(apply(ShiftTransform(), sample, 3), apply(ShiftTransform(), sample, 3))
    assert not np.array_equal(apply(ShiftTransform(), sample, 3), apply(ShiftTransform(), sample, 4))
