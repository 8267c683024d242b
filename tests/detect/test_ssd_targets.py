"""Anchors and targets of SSD, held against GluonCV's where these are right, and against plain loops."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo.ssd.anchor import SSDAnchorGenerator
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator

from common.data.samples import Sample
from detect.ssd.anchors import (
    Level,
    anchor_boxes,
    best_overlaps,
    cluster,
    corners,
    fitted,
    iou_of_sizes,
    levels,
    map_sizes,
)
from detect.ssd.targets import Negatives, assign, box_targets, class_targets, iou_matrix

SHAPE = (96, 64)


def random_boxes(batch: int, count: int, seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (batch, count, 2))
    high = np.minimum(low + rng.uniform(0.08, 0.5, (batch, count, 2)), 1)
    ids = rng.integers(0, 3, (batch, count, 1))
    boxes = np.concatenate([low * shape, high * shape, ids], axis=-1).astype(np.float32)
    boxes[0, count // 2 :] = -1  # as where an image has fewer objects than another
    return boxes


@pytest.mark.parametrize(
    ("name", "size", "dataset", "sizes", "steps"),
    [
        ("vgg16_atrous", 300, "voc", [30, 60, 111, 162, 213, 264, 315], [8, 16, 32, 64, 100, 300]),
        ("vgg16_atrous", 300, "coco", [21, 45, 99, 153, 207, 261, 315], [8, 16, 32, 64, 100, 300]),
        (
            "vgg16_atrous",
            512,
            "coco",
            [51.2, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6],
            [8, 16, 32, 64, 128, 256, 512],
        ),
        (
            "mobilenet1.0",
            512,
            "voc",
            [51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492],
            [16, 32, 64, 128, 256, 512],
        ),
        (
            "resnet50_v1",
            512,
            "coco",
            [51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72],
            [16, 32, 64, 128, 256, 512],
        ),
    ],
)
def test_anchors_of_published_detectors_are_gluoncvs(
    name: str, size: int, dataset: str, sizes: list[float], steps: list[int]
) -> None:
    plan = levels(name, size, dataset)
    wanted = []
    for index, (columns, rows) in enumerate(map_sizes(plan, (size, size))):
        ratios = [1, 2, 0.5] if index in (0, len(plan) - 2, len(plan) - 1) else [1, 2, 0.5, 3, 1 / 3]
        made = SSDAnchorGenerator(
            index, (size, size), sizes[index : index + 2], ratios, steps[index], (64, 64)
        )
        made.initialize()
        wanted.append(made(mx.nd.zeros((1, 1, rows, columns))).asnumpy()[0])
    np.testing.assert_allclose(anchor_boxes(plan, (size, size)), np.concatenate(wanted), rtol=1e-5)


def test_anchors_are_shares_of_any_input() -> None:
    plan = levels("mobilenetv2_1.0_lite", 300, "voc")
    small, large = anchor_boxes(plan, (128, 64)), anchor_boxes(plan, (256, 128))
    first = len(plan[0].anchors)
    np.testing.assert_allclose(small[:first, 2:] / (128, 64), large[:first, 2:] / (256, 128), rtol=1e-6)
    assert map_sizes(plan, (300, 300)) == [(s, s) for s in (38, 19, 10, 5, 3, 2, 1)]
    assert map_sizes(levels("mobilenet1.0_fpn", 300, "voc"), (640, 320))[0] == (80, 40)
    assert map_sizes(levels("vgg16_atrous", 300, "voc"), (300, 300)) == [
        (s, s) for s in (38, 19, 10, 5, 3, 1)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_those_of_gluoncvs_generator(seed: int) -> None:
    plan = levels("mobilenet1.0", 512, "voc")
    anchors = anchor_boxes(plan, SHAPE)
    boxes = random_boxes(4, 6, seed)
    generator = SSDTargetGenerator(iou_thresh=0.5, negative_mining_ratio=-1)
    wanted_classes, wanted_boxes, mask = (
        array.asnumpy()
        for array in generator(
            mx.nd.array(anchors[None]), None, mx.nd.array(boxes[..., :4]), mx.nd.array(boxes[..., 4:])
        )
    )
    owner = assign(boxes, corners(anchors), 0.5)
    everywhere = np.ones(len(anchors), bool)
    found = class_targets(boxes, owner, everywhere, corners(anchors), SHAPE)
    np.testing.assert_array_equal(found, wanted_classes)
    assert (found > 0).sum() > 20  # most objects have one of their own
    np.testing.assert_allclose(box_targets(boxes, owner, anchors), wanted_boxes * mask, rtol=1e-3, atol=1e-3)


def test_every_object_has_an_anchor_of_its_own() -> None:
    anchors = anchor_boxes(levels("mobilenet1.0", 512, "voc"), SHAPE)
    boxes = np.full((1, 4, 5), -1, np.float32)
    boxes[0, :3] = [
        [10, 10, 14, 13, 0],
        [10, 10, 14, 13, 1],
        [11, 10, 15, 13, 2],
    ]  # hardly larger than nothing
    owner = assign(boxes, corners(anchors), 0.5)
    assert {0, 1, 2} <= set(owner[0].tolist())
    nothing = np.full((2, 3, 5), -1, np.float32)
    assert (assign(nothing, corners(anchors), 0.5) == -1).all()


def test_an_object_that_few_anchors_overlap_enough_has_its_best_ones_too() -> None:
    anchors = corners(anchor_boxes(levels("mobilenet1.0", 512, "voc"), SHAPE))
    boxes = np.full((1, 4, 5), -1, np.float32)
    boxes[0, :3] = [
        [10, 10, 14, 13, 0],
        [12, 10, 16, 13, 1],
        [20, 5, 90, 60, 2],
    ]  # two small ones, side by side
    overlap = iou_matrix(boxes[0, :3, :4], anchors)
    few, more = assign(boxes, anchors, 0.4)[0], assign(boxes, anchors, 0.4, least=9)[0]
    assert (more[few >= 0] == few[few >= 0]).all()
    assert ((few == 0).sum(), (few == 1).sum()) == (1, 1)
    assert (more == 2).sum() == (few == 2).sum() >= 9
    for number in (0, 1):
        other = 1 - number
        given = np.flatnonzero(more == number)
        assert 3 <= len(given) <= 9
        assert (more[overlap[number] >= 0.5 * overlap[number].max()] >= 0).all()  # none is left
        assert (overlap[number, given] >= 0.5 * overlap[number].max()).all()
        added = more != few
        assert (overlap[number, added & (more == number)] >= overlap[other, added & (more == number)]).all()


def test_a_place_of_which_nothing_is_known_is_neither_object_nor_background() -> None:
    anchors = anchor_boxes(levels("mobilenet1.0", 512, "voc"), SHAPE)
    boxes = np.full((2, 3, 5), -1, np.float32)
    boxes[:, 0] = [8, 8, 40, 40, 1]
    boxes[0, 1] = [0, 0, 96, 64, -1]  # the whole image, of unknown class
    boxes[1, 2] = [60, 20, 90, 60, -3]  # a crowd of class 1
    owner = assign(boxes, corners(anchors), 0.5)
    targets = class_targets(boxes, owner, np.ones(len(anchors), bool), corners(anchors), SHAPE)
    assert (owner[0] == owner[1]).all()  # such rows are no objects
    assert set(targets[0].tolist()) == {-1.0, 2.0}
    assert set(targets[1].tolist()) == {-1.0, 0.0, 2.0}
    overlap = iou_matrix(boxes[1, 2:, :4], corners(anchors))[0]
    assert (targets[1][overlap >= 0.5] == -1).all()
    assert (targets[1][overlap == 0] >= 0).all()


def test_background_is_taken_from_large_anchors_and_from_a_region_alone() -> None:
    anchors = anchor_boxes(levels("mobilenet1.0", 512, "voc"), SHAPE)
    allowed = Negatives(0.3).allowed(anchors, SHAPE)
    shares = np.sqrt(anchors[:, 2] * anchors[:, 3] / (96 * 64))
    np.testing.assert_array_equal(allowed, shares >= 0.3)
    assert 0 < allowed.sum() < len(allowed)
    inside = Negatives(0.0, (0.0, 0.5, 1.0, 1.0)).allowed(anchors, SHAPE)
    np.testing.assert_array_equal(inside, anchors[:, 1] >= 32)
    boxes = random_boxes(2, 4, 0)
    owner = assign(boxes, corners(anchors), 0.5)
    targets = class_targets(boxes, owner, inside, corners(anchors), SHAPE)
    assert (targets[:, ~inside][owner[:, ~inside] < 0] == -1).all()
    assert (targets[:, inside] >= 0).all()
    assert (targets[owner >= 0] > 0).all()  # objects are learnt everywhere


def test_the_best_overlap_is_that_of_all_anchors() -> None:
    for name in ("mobilenetv2_1.0_lite", "vgg16_atrous"):
        plan = levels(name, 300, "voc")
        boxes = random_boxes(2, 40, 5, (1, 1))[1, :, :4]
        everything = iou_matrix(boxes * np.tile(SHAPE, 2), corners(anchor_boxes(plan, SHAPE)))
        np.testing.assert_allclose(best_overlaps(plan, SHAPE, boxes), everything.max(1), rtol=1e-4)


def sample(*boxes: tuple[float, float, float, float]) -> Sample:
    rows = [(0.0, *box) for box in boxes] or np.empty((0, 5))
    return Sample("a.jpg", 100, 50, np.array(rows, np.float32))


def test_fitted_anchors_have_the_sizes_of_the_objects_and_overlap_them_more() -> None:
    plan = levels("mobilenetv2_1.0_lite", 300, "voc")
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(60):  # flat ones of two sizes
        x, y = rng.uniform(0, 30, 2)
        width = rng.choice([20.0, 60.0]) * rng.uniform(0.9, 1.1)
        samples.append(sample((x, y / 2, x + width, y / 2 + width / 8)))
    after = fitted(plan, samples)
    assert [len(level.anchors) for level in after] == [len(level.anchors) for level in plan]
    boxes = np.concatenate([s.annotation[:, 1:] / (100, 50, 100, 50) for s in samples])
    before, now = (best_overlaps(each, (300, 300), boxes).mean() for each in (plan, after))
    assert now > before + 0.05
    assert all((a.anchors == b.anchors).all() for a, b in zip(fitted(plan, [sample()]), plan, strict=True))


def test_a_level_with_few_objects_keeps_the_anchors_that_are_left() -> None:
    level = Level(np.array([[0.1, 0.1], [0.3, 0.3]]), ("halve",))
    (found,) = fitted([level], [sample((0, 0, 12, 6))])
    np.testing.assert_allclose(found.anchors, [[0.12, 0.12], [0.3, 0.3]], atol=1e-6)


def test_objects_of_one_size_at_many_places_fit_one_anchor() -> None:
    plan = levels("mobilenetv2_1.0_lite", 300, "voc")
    places = [7, 52, 103, 199, 247, 311, 402, 428, 5, 77, 91]
    samples = [Sample("a.jpg", 585, 585, np.array([[0, x, x, x + 157, x + 157]], np.float32)) for x in places]
    after = fitted(plan, samples)
    changed = [(a.anchors != b.anchors).any(axis=1) for a, b in zip(after, plan, strict=True)]
    assert sum(rows.sum() for rows in changed) == 1


def test_clusters_are_means_of_what_is_alike() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0.1, 0.1], [0.1, 0.4], [0.5, 0.5]])
    sizes = np.concatenate([centre * rng.uniform(0.95, 1.05, (30, 2)) for centre in centres])
    means = cluster(sizes, 3)
    assert iou_of_sizes(means, centres).max(1).min() > 0.95
    np.testing.assert_allclose(means[0], sizes[:30].mean(0))
