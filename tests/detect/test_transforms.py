"""After any transform every object is where its box says, and what is not seen has none."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.samples import Sample
from common.images import augment
from common.images.decoding import ImageError
from detect.geometry import choose_crop, visible_objects
from detect.transforms import CenterNetTraining, YOLOv3Training

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8)
BACKGROUNDS = np.array([(75, 75, 75), (124, 116, 104), (0, 0, 0)], np.uint8)
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def drawn(path: Path, width: int, height: int, boxes: list[list[float]]) -> Sample:
    """An image of grey noise with a rectangle in its class's colour where each box (id, x1 … y2) is."""
    pixels = np.repeat(np.random.default_rng(0).integers(60, 90, (height, width, 1), np.uint8), 3, axis=2)
    for class_id, x1, y1, x2, y2 in boxes:
        pixels[int(y1) : int(y2), int(x1) : int(x2)] = COLOURS[int(class_id)]
    sharp = [
        cv2.IMWRITE_JPEG_QUALITY,
        100,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    cv2.imwrite(str(path), pixels[:, :, ::-1], sharp)
    return Sample(str(path), width, height, np.array(boxes, np.float32).reshape(-1, 5))


def no_other() -> Sample:
    raise AssertionError("no other sample is wanted")


def run(
    transform: Any,
    sample: Sample,
    shape: tuple[int, int],
    seed: int = 0,
    draw: Callable[[], Sample] = no_other,
) -> dict[str, np.ndarray]:
    """What the transform makes of a sample, in arrays that held rubbish before."""
    out = {name: np.full(size, 77, kind) for name, (size, kind) in transform.layout(shape).items()}
    assert out["image"].shape == (shape[1], shape[0], 3)
    assert out["image"].dtype == np.uint8
    transform(sample, shape, np.random.default_rng(seed), draw, out)
    return out


def objects(out: dict[str, np.ndarray]) -> np.ndarray:
    """The rows in use; the others are all -1 and come after them."""
    boxes = out["boxes"]
    used = boxes[:, 4] >= 0
    assert (boxes[~used] == -1).all()
    assert not used[int(used.sum()) :].any()
    return boxes[used]


def coloured(image: np.ndarray, class_id: int) -> np.ndarray:
    """Where `image` is nearest to the colour of a class, (H, W) of bool."""
    palette = np.concatenate([COLOURS, BACKGROUNDS]).astype(np.float32)
    distance = (palette**2).sum(axis=1) - 2 * (image.reshape(-1, 3).astype(np.float32) @ palette.T)
    return distance.argmin(axis=1).reshape(image.shape[:2]) == class_id


def assert_boxes_fit(out: dict[str, np.ndarray], tolerance: float = 1.0) -> None:
    """Each box is around the pixels of its class's colour (one object a class)."""
    for x1, y1, x2, y2, class_id in objects(out):
        rows, columns = np.nonzero(coloured(out["image"], int(class_id)))
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(seen) - (x1, y1, x2, y2)).max() <= tolerance, (seen, (x1, y1, x2, y2))


FOUR = [[0, 20, 30, 120, 90], [1, 200, 40, 300, 200], [2, 30, 150, 100, 230], [3, 110, 120, 190, 180]]
TRAINING = {
    "YOLOv3": YOLOv3Training(4, **PLAIN, hue=0.0, min_visible=0.1),
    "YOLOv3 mosaic": YOLOv3Training(4, **PLAIN, hue=0.0, mosaic=1.0),
    "CenterNet": CenterNetTraining(4, **PLAIN, lighting=0.0, min_visible=0.1),
}


@pytest.mark.parametrize("name", ["YOLOv3", "CenterNet"])
@pytest.mark.parametrize("shape", [(128, 128), (160, 96), (192, 224)])
def test_every_object_lands_where_its_box_says(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    sample = drawn(tmp_path / "1.jpg", 320, 240, FOUR)
    kept, mirrored = 0, set()
    for seed in range(30):
        out = run(TRAINING[name], sample, shape, seed)
        assert_boxes_fit(out, 1.5)
        found = {int(row[4]): row for row in objects(out)}
        kept += len(found)
        if 0 in found and 1 in found:
            mirrored.add(bool(found[0][0] > found[1][0]))
    assert kept > 45
    assert mirrored == {True, False}


@pytest.mark.parametrize("transform", TRAINING.values())
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3000, 1), (1, 3000), (7, 5), (129, 1025)])
def test_odd_images_work_and_keep_boxes_inside(tmp_path: Path, transform: Any, size: tuple[int, int]) -> None:
    sample = drawn(tmp_path / "1.jpg", *size, [[0, 0, 0, *size]])
    for seed in range(8):
        out = run(transform, sample, (96, 64), seed, lambda: sample)
        found = objects(out)
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:4] <= (96, 64)).all()
        assert (found[:, 2:4] > found[:, :2]).all()


@pytest.mark.parametrize("transform", TRAINING.values())
def test_an_image_without_objects_has_no_boxes(tmp_path: Path, transform: Any) -> None:
    sample = drawn(tmp_path / "1.jpg", 64, 48, [])
    for seed in range(6):
        assert len(objects(run(transform, sample, (64, 64), seed, lambda: sample))) == 0


@pytest.mark.parametrize("kind", [YOLOv3Training, CenterNetTraining])
def test_500_objects_and_objects_of_one_pixel_work(tmp_path: Path, kind: Any) -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 200, (500, 2))
    high = np.minimum(low + rng.integers(1, 30, (500, 2)), (320, 240))
    high[:250] = low[:250] + 1
    sample = drawn(
        tmp_path / "1.jpg", 320, 240, np.column_stack([rng.integers(0, 4, 500), low, high]).tolist()
    )
    out = run(kind(500), sample, (128, 128))
    found = objects(out)
    assert len(found) > 20
    assert (found[:, 2:4] > found[:, :2]).all()


def test_more_objects_than_rows_are_an_error_and_not_a_loss(tmp_path: Path) -> None:
    sample = drawn(tmp_path / "1.jpg", 320, 240, FOUR)
    with pytest.raises(ValueError, match="4 objects do not fit into 3 rows"):
        run(YOLOv3Training(3, crop=0.0), sample, (64, 64))


def test_an_object_is_kept_from_the_visible_share_on() -> None:
    annotation = np.array([[3, 10, 10, 30, 20], [1, 0, 0, 5, 5], [2, 60, 60, 70, 70]], np.float32)
    matrix = augment.stretching((20, 0, 60, 60), (80, 60))
    np.testing.assert_allclose(visible_objects(annotation, matrix, (80, 60), 0.5), [[0, 10, 20, 20, 3]])
    assert len(visible_objects(annotation, matrix, (80, 60), 0.51)) == 0
    assert len(visible_objects(annotation, matrix, (80, 60), 0.0)) == 1
    mirrored = augment.stretching((20, 0, 60, 60), (80, 60), mirrored=True)
    np.testing.assert_allclose(visible_objects(annotation, mirrored, (80, 60), 0.5), [[60, 10, 80, 20, 3]])


@pytest.mark.parametrize("kind", [YOLOv3Training, CenterNetTraining])
def test_training_leaves_out_hardly_visible_objects(tmp_path: Path, kind: Any) -> None:
    sample = drawn(tmp_path / "1.jpg", 320, 240, FOUR)
    most, all_ = (
        sum(len(objects(run(kind(4, min_visible=share), sample, (64, 64), seed))) for seed in range(60))
        for share in (0.9, 0.0)
    )
    assert 60 < most < all_


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 80), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20)), max_size=8
    ),
    st.integers(0, 10_000),
    st.floats(0.05, 1.0),
    st.floats(1.0, 3.0),
)
def test_a_crop_lies_on_the_canvas_and_keeps_an_object(
    corners: list, seed: int, min_scale: float, max_aspect: float
) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners], float).reshape(-1, 4)
    crop = choose_crop(boxes, (100, 60), np.random.default_rng(seed), min_scale, max_aspect, 0.25)
    x1, y1, x2, y2 = crop
    assert 0 <= x1 < x2 <= 100 + 1e-9
    assert 0 <= y1 < y2 <= 60 + 1e-9
    assert (x2 - x1) * (y2 - y1) >= 0.99 * min_scale**2 * 6000
    if len(boxes):
        width = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
        height = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert (np.maximum(width, 0) * np.maximum(height, 0) / area).max() >= 0.25


def test_crops_are_of_all_sizes_and_not_always_the_canvas() -> None:
    boxes = np.array([[40.0, 20, 60, 40]])
    areas = []
    for seed in range(300):
        x1, y1, x2, y2 = choose_crop(boxes, (100, 60), np.random.default_rng(seed), 0.3, 2.0, 0.25)
        areas.append((x2 - x1) * (y2 - y1) / 6000)
    assert min(areas) < 0.15
    assert 0.1 < np.mean(np.array(areas) == 1.0) < 0.4


def test_expansion_surrounds_the_image_with_the_mean_colour(tmp_path: Path) -> None:
    sample = drawn(tmp_path / "1.jpg", 64, 64, [[0, 0, 0, 64, 64]])
    transform = YOLOv3Training(1, **PLAIN, hue=0.0, expand=1.0, crop=0.0)
    widths = []
    for seed in range(40):
        out = run(transform, sample, (96, 96), seed)
        assert_boxes_fit(out)
        x1, y1, x2, y2, _ = objects(out)[0]
        outside = np.ones((96, 96), bool)
        outside[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = False
        assert (out["image"][outside] == (124, 116, 104)).all()
        widths.append(x2 - x1)
    assert 48 <= min(widths) < 52
    assert max(widths) > 70


def test_centernet_sees_between_0_6_and_1_3_of_the_letterboxed_region(tmp_path: Path) -> None:
    sample = drawn(tmp_path / "1.jpg", 300, 300, [[0, 140, 140, 160, 160]])
    transform = CenterNetTraining(1, **PLAIN, lighting=0.0)
    factors = set()
    for seed in range(120):
        found = objects(run(transform, sample, (300, 300), seed))
        if len(found) and found[0, :2].min() > 0 and found[0, 2:4].max() < 300:
            factors.add(round(20 / float(found[0, 2] - found[0, 0]), 1))
    assert sorted(factors) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3])


def test_a_mosaic_shows_four_images_with_their_boxes(tmp_path: Path) -> None:
    whole = [drawn(tmp_path / f"{i}.jpg", 100 + 30 * i, 90, [[i, 0, 0, 100 + 30 * i, 90]]) for i in range(4)]
    transform = YOLOv3Training(1, **PLAIN, hue=0.0, mosaic=1.0)
    counts = []
    for seed in range(30):
        others = iter(whole[1:])
        out = run(transform, whole[0], (128, 128), seed, lambda others=others: next(others))
        found = objects(out)
        counts.append(len(set(found[:, 4])))
        assert_boxes_fit(out)
        for class_id in range(4):  # what is seen is among the boxes
            if class_id not in found[:, 4]:
                assert coloured(out["image"], class_id).sum() < 0.25 * 1.2**2 * 1.2 * 128 * 128
    assert max(counts) == 4


def test_a_mosaic_never_shows_objects_that_are_not_among_its_boxes(tmp_path: Path) -> None:
    many = [[0, 4 * (i % 20), 6 * (i // 20), 4 * (i % 20) + 3, 6 * (i // 20) + 5] for i in range(60)]
    crowded = drawn(tmp_path / "1.jpg", 80, 18, many)
    transform = YOLOv3Training(60, **PLAIN, hue=0.0, mosaic=1.0, mosaic_scale=(0.3, 0.3))
    assert transform.rows == 100
    for seed in range(10):
        out = run(transform, crowded, (256, 256), seed, lambda: crowded)
        found = objects(out)
        assert len(found) == 60  # a second image would not fit
        uncovered = coloured(out["image"], 0)
        for x1, y1, x2, y2, _ in found:
            uncovered[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = False
        assert not uncovered.any()


def test_mosaics_happen_with_their_probability(tmp_path: Path) -> None:
    sample = drawn(tmp_path / "1.jpg", 32, 32, [])
    drawn_others = 0

    def other() -> Sample:
        nonlocal drawn_others
        drawn_others += 1
        return sample

    for seed in range(200):
        run(YOLOv3Training(1, mosaic=0.25), sample, (32, 32), seed, other)
    assert 20 * 3 < drawn_others < 80 * 3


@pytest.mark.parametrize("transform", TRAINING.values())
def test_the_same_seed_gives_the_same_sample(tmp_path: Path, transform: Any) -> None:
    sample = drawn(tmp_path / "1.jpg", 320, 240, FOUR)
    copy = pickle.loads(pickle.dumps(transform))
    first, again, other = (
        run(t, sample, (96, 96), seed, lambda: sample)
        for t, seed in ((transform, 5), (copy, 5), (transform, 6))
    )
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize("transform", [YOLOv3Training(4), CenterNetTraining(4)])
def test_colours_are_jittered(tmp_path: Path, transform: Any) -> None:
    sample = drawn(tmp_path / "1.jpg", 64, 64, [[0, 0, 0, 64, 64]])
    colours = {
        tuple(np.median(run(transform, sample, (32, 32), seed)["image"], axis=(0, 1))) for seed in range(30)
    }
    assert len(colours) > 15


@pytest.mark.parametrize("transform", TRAINING.values())
def test_an_image_that_changed_or_vanished_is_an_error_that_names_it(tmp_path: Path, transform: Any) -> None:
    sample = drawn(tmp_path / "1.jpg", 32, 24, [])
    drawn(tmp_path / "1.jpg", 40, 24, [])
    with pytest.raises(ImageError, match=r"1\.jpg: is 40x24 now and was 32x24"):
        run(transform, sample, (32, 32), 0, lambda: sample)
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(ImageError, match=r"1\.jpg"):
        run(transform, sample, (32, 32), 0, lambda: sample)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(20, 400),
    st.integers(20, 400),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([(64, 64), (96, 160)]),
    st.integers(0, 999),
)
def test_any_box_of_any_image_lands_where_it_belongs(
    tmp_path: Path, width: int, height: int, place: tuple, shape: tuple[int, int], seed: int
) -> None:
    x1, x2 = sorted(int(value * (width - 1)) for value in place[:2])
    y1, y2 = sorted(int(value * (height - 1)) for value in place[2:])
    sample = drawn(tmp_path / "1.jpg", width, height, [[0, x1, y1, x2 + 1, y2 + 1]])
    for transform in (TRAINING["YOLOv3"], TRAINING["CenterNet"]):
        out = run(transform, sample, shape, seed)
        for box in objects(out):
            # Less than two pixels of the input are blurred away by its neighbours.
            if min(box[2] - box[0], box[3] - box[1]) > 2:
                assert_boxes_fit(out, 1.6)


@pytest.mark.parametrize("make", [lambda: YOLOv3Training(4), lambda: CenterNetTraining(4)])
def test_unknown_places_are_seen_wherever_a_part_of_them_is_and_draw_no_crop(
    tmp_path: Path, make: Any
) -> None:
    objects = [[0, 10, 10, 30, 30]]
    sample = drawn(tmp_path / "1.jpg", 120, 80, objects)
    rows = np.array([*objects, [-1, 70, 10, 118, 78]], np.float32)
    hidden = Sample(sample.image, 120, 80, rows)
    for seed in range(12):
        plain, out = run(make(), sample, (64, 64), seed), run(make(), hidden, (64, 64), seed)
        # The same picture and the same objects.
        np.testing.assert_array_equal(plain["image"], out["image"])
        real = out["boxes"][:, 4] >= 0
        np.testing.assert_array_equal(out["boxes"][real], plain["boxes"][plain["boxes"][:, 4] >= 0])
        places = out["boxes"][~real & (out["boxes"][:, 2] > out["boxes"][:, 0])]
        assert len(places) <= 1
