"""Targets are GluonCV's and the paper's, also where images are empty, crowded or odd."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from detect.center_net.targets import (
    fill_targets,
    gaussian_radius,
    map_shape,
    maps_of_classes,
    target_layout,
)


def targets(
    boxes: np.ndarray,
    classes: int = 3,
    shape: tuple[int, int] = (256, 128),
    objects: int = 20,
    scale: float = 4,
) -> dict[str, np.ndarray]:
    layout = target_layout(classes, shape, objects, scale)
    # Whatever an earlier batch left in the arrays must not show.
    out = {name: np.full(size, 77, dtype) for name, (size, dtype) in layout.items()}
    fill_targets(boxes, out, scale)
    maps, kept = maps_of_classes(out["classes"][None], classes)
    assert maps.max() < kept
    out["heatmap"] = out["heatmap"][maps[0].astype(int)]  # of every class
    return out


def random_boxes(rng: np.random.Generator, count: int, classes: int, shape: tuple[int, int]) -> np.ndarray:
    first, second = (rng.uniform(0, 1, (count, 2)) * shape for _ in range(2))
    corners = np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)
    return np.concatenate([corners, rng.integers(0, classes, (count, 1))], 1).astype(np.float32)


def dense(out: dict[str, np.ndarray], name: str) -> np.ndarray:
    height, width = out["heatmap"].shape[1:]
    plane = np.zeros((2, height * width), np.float32)
    used = out["weights"] > 0
    plane[:, out["cells"][used].astype(int)] = out[name][used].T if out[name].ndim == 2 else out[name][used]
    return plane.reshape(2, height, width)


def test_an_unknown_place_is_neither_centre_nor_background_and_objects_in_it_stay() -> None:
    box = [20, 20, 60, 60, 1]
    plain = targets(np.array([box, [-1] * 5], np.float32))
    out = targets(np.array([box, [34, 30, 101, 64, -1], [-1] * 5], np.float32))
    place = np.zeros((32, 64), bool)
    place[7:16, 8:26] = True
    assert ((out["heatmap"] == 1) == (plain["heatmap"] == 1)).all()
    np.testing.assert_array_equal(out["heatmap"][:, ~place], plain["heatmap"][:, ~place])
    assert (out["heatmap"][:, place] >= 0.99).all()
    assert (out["heatmap"][0, place] < 1).all()
    for name in ("cells", "sizes", "offsets", "weights"):
        np.testing.assert_array_equal(out[name], plain[name])


@pytest.mark.parametrize("count", [1, 20, 500])
def test_targets_equal_those_of_gluoncv(count: int) -> None:
    generator = pytest.importorskip("gluoncv.model_zoo.center_net.target_generator").CenterNetTargetGenerator
    shape = (256, 128)
    for seed in range(3):
        boxes = random_boxes(np.random.default_rng(seed), count, 3, shape)
        ours = targets(boxes, shape=shape, objects=count)
        theirs = [array.asnumpy() for array in generator(3, 64, 32)(boxes[:, :4] / 4, boxes[:, 4:])]
        np.testing.assert_allclose(ours["heatmap"], theirs[0], rtol=0, atol=1e-6)
        assert np.array_equal(ours["heatmap"] == 1, theirs[0] == 1)
        for name, expected in (("sizes", theirs[1]), ("weights", theirs[2]), ("offsets", theirs[3])):
            np.testing.assert_allclose(dense(ours, name), expected, rtol=0, atol=1e-5)


def test_heatmap_is_the_papers_gaussian() -> None:
    out = targets(np.array([[40, 24, 136, 88, 1]]))
    radius = int(gaussian_radius(np.array([[24.0, 16.0]]))[0])
    assert radius > 2
    y, x = np.mgrid[:32, :64]
    sigma = (2 * radius + 1) / 6
    expected = np.exp(-((x - 22) ** 2 + (y - 14) ** 2) / (2 * sigma**2))
    expected[(abs(x - 22) > radius) | (abs(y - 14) > radius)] = 0
    np.testing.assert_allclose(out["heatmap"][1], expected, atol=1e-6)
    assert not out["heatmap"][[0, 2]].any()


def test_radius_of_squares_grows_with_their_side() -> None:
    # For a square the smallest of the three roots is (sqrt(11.2) - 2.8) / 2 = 0.2733 of its side, rounded
    # down.
    assert gaussian_radius(np.array([[1.0, 1.0], [10.0, 10.0], [128.0, 128.0]])).tolist() == [0, 2, 34]


def test_image_without_objects_gives_empty_targets() -> None:
    for boxes in (np.zeros((0, 5)), np.full((4, 5), -1.0)):
        out = targets(boxes)
        assert (out.pop("classes") == -1).all()
        assert all(not array.any() for array in out.values())


def test_one_pixel_objects_have_a_centre_and_their_size() -> None:
    out = targets(np.array([[255, 127, 256, 128, 2], [0, 0, 1, 1, 0]]))
    assert out["heatmap"][2, 31, 63] == 1
    assert out["heatmap"][0, 0, 0] == 1
    assert out["heatmap"].sum() == 2
    assert out["cells"][:2].tolist() == [31 * 64 + 63, 0]
    np.testing.assert_allclose(out["sizes"][:2], 0.25)
    np.testing.assert_allclose(out["offsets"][:2], [[0.875, 0.875], [0.125, 0.125]])


def test_of_two_objects_in_one_cell_the_last_gives_size_and_offset_and_both_their_class() -> None:
    out = targets(np.array([[20, 20, 60, 60, 0], [100, 8, 108, 16, 1], [30, 30, 51, 51, 2]]))
    assert out["weights"].sum() == 2
    row = out["cells"].tolist().index(10 * 64 + 10)
    np.testing.assert_allclose(out["sizes"][row], 5.25)
    np.testing.assert_allclose(out["offsets"][row], 0.125)
    assert out["heatmap"][0, 10, 10] == out["heatmap"][2, 10, 10] == 1


def test_boxes_are_clipped_and_those_outside_left_out() -> None:
    out = targets(
        np.array([[-40, 8, 40, 24, 0], [260, 10, 300, 30, 1], [50, 50, 50, 60, 1], [9, 9, 5, 20, 1]])
    )
    assert out["weights"].sum() == 1
    assert out["sizes"][0].tolist() == [10, 4]
    assert not out["heatmap"][1].any()


def test_too_many_objects_and_unknown_classes_are_errors() -> None:
    with pytest.raises(ValueError, match="3 objects in an image; there is room for 2"):
        targets(random_boxes(np.random.default_rng(0), 3, 3, (256, 128)), objects=2)
    with pytest.raises(ValueError, match="class id 3 of an object; 3 classes go up to 2"):
        targets(np.array([[0, 0, 9, 9, 3]]))


def test_other_scales_and_odd_sizes_have_the_map_of_the_network() -> None:
    assert map_shape((512, 256), 4.0) == (128, 64)
    assert map_shape((500, 33), 4) == (128, 16)
    assert map_shape((64, 64), 16) == (4, 4)
    out = targets(np.array([[8, 8, 24, 24, 0]]), shape=(64, 64), scale=16)
    assert out["heatmap"][0, 1, 1] == 1
    assert out["sizes"][0].tolist() == [1, 1]
    for scale in (0, 3, 4.5, 64):
        with pytest.raises(ValueError, match="must be one of 2, 4, 8, 16, 32"):
            map_shape((64, 64), scale)


def test_workers_need_no_framework_for_targets() -> None:
    code = (
        "import sys, detect.center_net.targets; sys.exit(any(m in sys.modules for m in ('mxnet', 'gluoncv')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
