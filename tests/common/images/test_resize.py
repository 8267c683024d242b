"""What a model is fed is what `model.json` says, to the pixel, and can be made with OpenCV alone."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.data.samples import Sample
from common.images.decoding import ImageError, decode
from common.images.resize import Resize
from common.predictor import EvaluationTransform, whole
from tests.helpers.strangers import prepared

MODES = {"stretch": Resize(), "letterbox": Resize("letterbox"), "centre_crop": Resize("centre_crop", 0.875)}
SIZES = [(320, 240), (100, 300), (900, 200), (64, 64), (17, 5), (1, 1), (1, 400)]


@pytest.fixture
def noise(tmp_path: Path) -> str:
    path = tmp_path / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (130, 250, 3)).astype(np.uint8))
    return str(path)


def card(resize: Resize, shape: tuple[int, int]) -> dict:
    """A model.json that leaves numbers as they are."""
    size = {"width": shape[0], "height": shape[1], "mean": [0, 0, 0], "std": [1 / 255] * 3}
    return {"input": size, "resize": json.loads(json.dumps(resize.as_json()))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(96, 96), (160, 64), (400, 30)])
def test_a_stranger_with_opencv_makes_the_same_input(noise: str, mode: str, shape: tuple[int, int]) -> None:
    for box in (None, [10.0, 20.0, 200.0, 90.0], [3.4, 0.0, 5.0, 130.0]):
        out = np.empty((shape[1], shape[0], 3), np.uint8)
        back = MODES[mode].draw(decode(noise)[0], out, tuple(box) if box else None)  # type: ignore[arg-type]
        pixels, matrix = prepared(card(MODES[mode] if box is None else Resize(), shape), noise, box)
        np.testing.assert_allclose(out.transpose(2, 0, 1)[None], pixels, atol=1e-4)
        np.testing.assert_allclose(back, matrix)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_of_image_fills_the_input_and_leads_back_into_the_image(
    mode: str, size: tuple[int, int]
) -> None:
    out = np.full((64, 96, 3), 7, np.uint8)
    back = MODES[mode].draw(np.full((size[1], size[0], 3), 200, np.uint8), out)
    assert set(np.unique(out)) <= {0, 200}
    rows, columns = np.nonzero(out[:, :, 0] == 200)
    for x, y in ((columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)):
        place = back[:, :2] @ (x, y) + back[:, 2]
        assert (place >= -1e-9).all()
        assert (place <= np.array(size) + 1e-9).all()
    assert mode == "letterbox" or (out == 200).all()


def test_the_letterbox_keeps_the_aspect_ratio_and_lies_in_the_middle() -> None:
    out = np.empty((64, 64, 3), np.uint8)
    back = Resize("letterbox").draw(np.full((48, 96, 3), 200, np.uint8), out)
    assert (out[16:48] == 200).all()
    assert (out[:16] == 0).all()
    assert (out[48:] == 0).all()
    np.testing.assert_allclose(back, [[1.5, 0, 0], [0, 1.5, -24]])
    assert Resize("letterbox").scale((96, 48), (64, 64)) == pytest.approx((2 / 3, 2 / 3))


def test_the_centre_crop_at_224_is_that_of_resizing_to_256() -> None:
    out = np.empty((224, 224, 3), np.uint8)
    back = Resize("centre_crop", 0.875).draw(np.zeros((256, 512, 3), np.uint8), out)
    np.testing.assert_allclose(back, [[1, 0, 144], [0, 1, 16]])


def test_what_shrinks_far_is_averaged_and_not_sampled() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    image[::8] = 255  # sampled, some rows of the input would be white and others black
    for size in ((50, 50), (50, 300)):
        out = np.empty((size[0], size[1], 3), np.uint8)
        Resize().draw(image, out)
        assert np.ptp(out.astype(int)) < 40


def test_a_structure_that_is_none_is_refused() -> None:
    for resize in MODES.values():
        assert Resize.from_json(json.loads(json.dumps(resize.as_json()))) == resize
    for value in (
        {},
        {"mode": "tile", "share": 1, "fill": [0, 0, 0]},
        {"mode": "stretch", "share": 0, "fill": [0] * 3},
    ):
        with pytest.raises(ValueError, match="resize is"):
            Resize.from_json(value)


def test_an_image_that_is_another_by_now_is_refused(noise: str) -> None:
    transform = EvaluationTransform(Resize(), whole)
    out = {name: np.empty(shape, kind) for name, (shape, kind) in transform.layout((32, 32)).items()}
    sample = Sample(noise, 250, 130, np.empty((0, 5), np.float32))
    transform(sample, (32, 32), np.random.default_rng(0), lambda: sample, out)
    other = Sample(noise, 260, 130, np.empty((0, 5), np.float32))
    with pytest.raises(ImageError, match="is 250x130 now and was 260x130"):
        transform(other, (32, 32), np.random.default_rng(0), lambda: other, out)
