"""The building blocks put every pixel where the matrix says, in the colour that was asked for."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.images import augment

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth random image."""
    size = (max(2, height // 8), max(2, width // 8), 3)
    noise = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def plain_warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: tuple) -> np.ndarray:
    """Bilinear interpolation at the centre of each target pixel, in floating point.

    NaN within half a pixel of the image's edge, where how the image meets the fill is a matter of taste.
    """
    height, width = image.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5), axis=-1)
    x, y = np.moveaxis(augment.transform_points(grid, augment.invert(matrix)), -1, 0)
    out = np.empty((size[1], size[0], 3))
    out[:] = fill
    u, v = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (u - left)[..., None], (v - top)[..., None]
    source = image.astype(float)
    upper = source[top, left] * (1 - a) + source[top, right] * a
    lower = source[bottom, left] * (1 - a) + source[bottom, right] * a
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    out[inside] = (upper * (1 - b) + lower * b)[inside]
    edge = np.minimum.reduce([abs(x), abs(x - width), abs(y), abs(y - height)]) < 0.6
    beside = (x > -0.6) & (x < width + 0.6) & (y > -0.6) & (y < height + 0.6)
    out[edge & beside] = np.nan
    return out


MATRICES = {
    "stretched": augment.stretching((0, 0, 90, 70), (64, 48)),
    "enlarged": augment.stretching((0, 0, 90, 70), (180, 200)),
    "mirrored": augment.stretching((0, 0, 90, 70), (64, 48), mirrored=True),
    "a crop of whole pixels": augment.stretching((10, 20, 70, 60), (64, 48)),
    "a crop between pixels": augment.stretching((10.3, 20.6, 70.1, 60.4), (64, 48)),
    "a mirrored crop between pixels": augment.stretching((10.3, 20.6, 70.1, 60.4), (64, 48), mirrored=True),
    "wider than the image": augment.stretching((-30, -20, 130, 99), (96, 80)),
    "wider and mirrored": augment.stretching((-30.7, -20.2, 130, 99), (96, 80), mirrored=True),
    "upside down": augment.compose(augment.scaling(0.8, -0.9), augment.translation(1, 64)),
    "turned": augment.compose(augment.rotation(25, (45, 35)), augment.translation(-5, 4)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_warp_puts_pixels_where_the_matrix_says(name: str) -> None:
    image, fill = picture(90, 70), (10, 20, 30)
    got = augment.warp(image, MATRICES[name], (80, 60), fill)
    expected = plain_warp(image, MATRICES[name], (80, 60), fill)
    difference = np.abs(got - expected)
    assert np.isfinite(difference).mean() > 0.85
    # Resizing a cut-out repeats its border instead of looking beyond it: a few pixels differ there.
    assert np.nanmean(difference) < 1.0
    assert np.nanmax(difference[2:-2, 2:-2]) < 12
    assert np.nanmedian(difference) <= 1


@pytest.mark.parametrize("name", MATRICES)
def test_a_warp_into_a_view_leaves_what_is_around_it_alone(name: str) -> None:
    image = picture(90, 70)
    canvas = np.full((100, 120, 3), 7, np.uint8)
    view = canvas[20:80, 30:110]
    assert augment.warp(image, MATRICES[name], (80, 60), RED, view) is view
    np.testing.assert_array_equal(view, augment.warp(image, MATRICES[name], (80, 60), RED))
    view[:] = 7
    assert (canvas == 7).all()


@pytest.mark.parametrize("name", ["enlarged", "a crop between pixels", "wider and mirrored"])
def test_an_image_does_not_fade_at_its_edges(name: str) -> None:
    out = augment.warp(np.full((70, 90, 3), 200, np.uint8), MATRICES[name], (80, 60), RED)
    assert ((out == 200).all(axis=2) | (out == RED).all(axis=2)).all()


def test_stretching_takes_the_region_to_all_of_the_target() -> None:
    corners = np.array([[10.0, 20], [50, 90]])
    plain = augment.stretching((10, 20, 50, 90), (80, 60))
    mirrored = augment.stretching((10, 20, 50, 90), (80, 60), mirrored=True)
    np.testing.assert_allclose(augment.transform_points(corners, plain), [[0, 0], [80, 60]])
    np.testing.assert_allclose(augment.transform_points(corners, mirrored), [[80, 0], [0, 60]])


def test_an_image_beside_the_target_leaves_only_the_fill() -> None:
    out = augment.warp(picture(20, 20), augment.translation(500, 0), (30, 30), BLUE)
    assert (out == BLUE).all()


def test_a_strong_reduction_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    for region in ((0, 0, 400, 400), (0.4, 0, 399.7, 400), (-10, -10, 410, 410)):
        out = augment.warp(stripes, augment.stretching(region, (40, 40)), (40, 40), (127, 127, 127))
        assert np.abs(out.astype(int) - 127).max() <= 30


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (70000, 2), (2, 2)])
def test_odd_sizes_fill_the_target(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    out = augment.warp(image, augment.stretching((0, 0, *size), (50, 40)), (50, 40), RED)
    assert (out == 200).all()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2000),
    st.integers(1, 600),
    st.floats(0.04, 6.0),
    st.floats(-1.5, 1.5),
    st.booleans(),
)
def test_snapping_moves_what_is_visible_by_half_a_pixel_at_most(
    source: int, target: int, scale: float, place: float, mirrored: bool
) -> None:
    shift = place * max(target, source * scale)
    matrix = np.array([[scale, 0, shift], [0, 1, 0]])
    if mirrored:
        matrix = augment.compose(matrix, augment.mirroring(target))
    snapped = augment.snap(matrix, (source, 1), (target, 1))
    (a, _, b), _ = matrix
    x = np.linspace(0, source, 50)
    visible = (a * x + b >= 0) & (a * x + b <= target)
    moved = np.abs((snapped[0, 0] - a) * x + snapped[0, 2] - b)[visible]
    # Half a pixel of the target, or of the source, which is averaged down before if the target has fewer.
    unit = min(8, 2 ** math.floor(math.log2(max(1, 1 / scale))))
    assert (moved <= max(0.5, 0.5 * unit * scale) * 1.1 + 1e-6).all()
    assert np.sign(snapped[0, 0]) == np.sign(a)


def test_a_snapped_warp_is_a_resize_of_whole_pixels() -> None:
    image = picture(90, 70)
    matrix = augment.snap(augment.stretching((-10.3, 12.7, 60.2, 66.6), (80, 64)), (90, 70), (80, 64))
    (scale_x, _, left), (_, scale_y, top) = matrix
    assert left == round(left)
    expected = np.empty((64, 80, 3), np.uint8)
    expected[:] = BLUE
    expected[:, round(left) :] = cv2.resize(
        image[13:67, : round((80 - left) / scale_x)], (80 - round(left), 64)
    )
    np.testing.assert_array_equal(augment.warp(image, matrix, (80, 64), BLUE), expected)
    assert top == pytest.approx(-13 * scale_y)


coordinate = st.floats(-500, 500)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=5),
    st.floats(-180, 180),
    st.floats(0.1, 9),
)
def test_maps_compose_and_invert(points: list, degrees: float, scale: float) -> None:
    array = np.array(points)
    maps = [
        augment.rotation(degrees, (3, 4)),
        augment.scaling(scale, 2),
        augment.mirroring(80),
        augment.translation(1, 2),
    ]
    expected = array
    for matrix in maps:
        expected = augment.transform_points(expected, matrix)
    whole = augment.compose(*maps)
    np.testing.assert_allclose(augment.transform_points(array, whole), expected, atol=1e-6)
    np.testing.assert_allclose(augment.transform_points(expected, augment.invert(whole)), array, atol=1e-6)


def test_a_turn_is_clockwise_on_the_screen_about_its_centre() -> None:
    turned = augment.transform_points(np.array([[11.0, 10.0], [10.0, 10.0]]), augment.rotation(90, (10, 10)))
    np.testing.assert_allclose(turned, [[10, 11], [10, 10]], atol=1e-9)


def test_boxes_become_the_upright_boxes_around_them() -> None:
    boxes = np.array([[10.0, 20, 30, 40]])
    np.testing.assert_allclose(augment.transform_boxes(boxes, augment.mirroring(100)), [[70, 20, 90, 40]])
    around = augment.transform_boxes(boxes, augment.rotation(45, (20, 30)))
    half = math.sqrt(200)
    np.testing.assert_allclose(around, [[20 - half, 30 - half, 20 + half, 30 + half]])
    assert augment.transform_boxes(np.empty((0, 4)), augment.mirroring(9)).shape == (0, 4)


def jittered(image: np.ndarray, seed: int = 0, **strength: float) -> np.ndarray:
    out = image.copy()
    augment.jitter_colour(out, np.random.default_rng(seed), **strength)
    return out


def test_colours_change_as_the_matrix_says() -> None:
    image = picture(64, 64, 1) // 2 + 60
    for seed in range(20):
        strength = {
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.3,
            "hue": 20,
            "lighting": 0.1,
            "probability": 1.0,
        }
        matrix = augment.colour_matrix(image, np.random.default_rng(seed), **strength)
        assert matrix is not None
        expected = np.clip(image @ matrix[:, :3].T + matrix[:, 3], 0, 255)
        assert np.abs(jittered(image, seed, **strength) - expected).max() <= 1.01


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def test_each_change_does_what_its_name_says() -> None:
    image = picture(64, 64, 2) // 3 + 80
    image[:32] = image[:32, :, :1]  # half of it is grey
    moved = {"saturation": 0, "hue": 0}
    for seed in range(6):
        brighter = jittered(image, seed, brightness=0.3).astype(float)
        np.testing.assert_allclose(brighter, image * (brighter.sum() / image.sum()), atol=1.1)
        contrast = jittered(image, seed, contrast=0.3)
        assert abs(contrast.mean() - image.mean()) < 8
        assert contrast.std() != pytest.approx(image.std(), rel=0.005)
        for strength in ({"saturation": 0.5}, {"hue": 40.0}):
            coloured = jittered(image, seed, **strength)
            np.testing.assert_allclose(coloured[:32], image[:32], atol=1)
            np.testing.assert_allclose(luma(coloured), luma(image), atol=1.5)
            (name,) = strength
            moved[name] = max(moved[name], np.abs(coloured[32:].astype(int) - image[32:]).max())
    assert min(moved.values()) > 5


def test_changes_stay_within_their_limits_and_differ() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    values = {int(jittered(image, seed, brightness=0.2)[0, 0, 0]) for seed in range(60)}
    assert min(values) >= 80
    assert max(values) <= 120
    assert len(values) > 20


def test_nothing_asked_for_changes_nothing() -> None:
    image = picture(40, 40)
    np.testing.assert_array_equal(jittered(image), image)
    np.testing.assert_array_equal(jittered(image, brightness=0.5, hue=9, probability=0.0), image)


def test_each_change_happens_with_its_probability() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    changed = sum(
        (jittered(image, seed, brightness=0.5, probability=0.5) != image).any() for seed in range(400)
    )
    assert 150 < changed < 250


def test_erasing_overwrites_one_rectangle_of_the_size_asked_for() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    shares = []
    for seed in range(50):
        erased = image.copy()
        augment.erase(erased, np.random.default_rng(seed), probability=1.0, area=(0.1, 0.3), max_aspect=2.0)
        rows, columns = np.flatnonzero(erased.any((1, 2))), np.flatnonzero(erased.any((0, 2)))
        part = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (part.any(2)).mean() > 0.999
        shares.append(part.shape[0] * part.shape[1] / 4800)
    assert 0.09 < min(shares) < 0.15
    assert 0.25 < max(shares) < 0.32
    untouched = image.copy()
    augment.erase(untouched, np.random.default_rng(0), probability=0.0)
    assert not untouched.any()


def test_erasing_works_on_a_single_pixel() -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    for seed in range(5):
        augment.erase(image, np.random.default_rng(seed), probability=1.0)
    assert image.any()


def test_the_same_generator_state_gives_the_same_image() -> None:
    image = picture(40, 40)
    strength = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 10, "lighting": 0.1}
    np.testing.assert_array_equal(jittered(image, 3, **strength), jittered(image, 3, **strength))
    assert (jittered(image, 3, **strength) != jittered(image, 4, **strength)).any()


def test_the_share_of_mixup_is_a_draw_from_beta_and_repeatable() -> None:
    shares = np.array([augment.mixup_share(0.2, 1, 0, step) for step in range(2000)])
    assert shares.shape == (2000, 1)
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 0.25 / 1.4) < 0.01  # the variance of Beta(0.2, 0.2)
    assert (
        augment.mixup_share(0.2, 1, 3, 4)
        == augment.mixup_share(0.2, 1, 3, 4)
        != augment.mixup_share(0.2, 1, 4, 4)
    )
    assert augment.mixup_share(0.0, 1, 3, 4) == 1.0
