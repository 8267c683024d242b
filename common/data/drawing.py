"""From a sample's file to the network's pixels in two steps: a decode no larger than needed, and one warp."""

from __future__ import annotations

import math

import numpy as np

from common.data.samples import Sample
from common.images import augment
from common.images import decoding as images


def draw_sample(sample: Sample, matrix: np.ndarray, fill: tuple[int, int, int], out: np.ndarray) -> None:
    """Draw a sample's image into all of `out` (H, W, 3) uint8, `fill` beside it.

    matrix (2, 3): from pixels of the image to pixels of `out`. A JPEG is decoded at a fraction of its size
    where `out` has no use for more. Raises images.ImageError, also where the file is another image than when
    the set was read.
    """
    size = sample.width, sample.height
    x, y = augment.stretch(matrix)
    pixels, actual = images.decode(sample.image, (math.ceil(size[0] * x), math.ceil(size[1] * y)))
    if actual != size:
        raise images.ImageError(
            sample.image, f"is {actual[0]}x{actual[1]} now and was {size[0]}x{size[1]} when the set was read"
        )
    height, width = pixels.shape[:2]
    if (width, height) != size:
        matrix = augment.compose(augment.scaling(size[0] / width, size[1] / height), matrix)
    augment.warp(pixels, matrix, (out.shape[1], out.shape[0]), fill, out)
