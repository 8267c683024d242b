"""How a sample becomes the landmark network's input: image and keypoints move by the same matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.data.drawing import draw_sample
from common.data.samples import Sample
from common.images.augment import (
    MEAN_COLOUR,
    compose,
    invert,
    jitter_colour,
    mirroring,
    rotation,
    scaling,
    stretching,
    transform_points,
    translation,
)
from landmark.annotations import part_of, points_of


def layout(shape: tuple[int, int], num_joints: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of one sample.

    "image" (H, W, 3) uint8 RGB; "points" (num_joints, 2), x and y as shares of the input's width and height, nan for
    one that is invisible; "matrix" (2, 3), from pixels of the input back to pixels of the original image.
    """
    return {
        "image": ((shape[1], shape[0], 3), "uint8"),
        "points": ((num_joints, 2), "float32"),
        "matrix": ((2, 3), "float64"),
    }


def _fill(sample: Sample, matrix: np.ndarray, shape: tuple[int, int], out: dict[str, np.ndarray]) -> None:
    draw_sample(sample, matrix, MEAN_COLOUR, out["image"])
    out["points"][...] = transform_points(points_of(sample).astype(np.float64), matrix) / shape
    out["matrix"][...] = invert(matrix)


@dataclass(frozen=True)
class TrainingTransform:
    """Turned, scaled and shifted about the middle of the keypoints, in random colours, perhaps mirrored.

    degrees, scale: up to so much either way; shift: share of the image's sides. mirrored: a table of
    `landmark.mirroring`, or None for no mirroring. The image is stretched to the input, as in evaluation.
    """

    num_joints: int
    mirrored: tuple[int, ...] | None = None
    degrees: float = 20.0
    scale: float = 0.15
    shift: float = 0.06
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        """See `layout`."""
        return layout(shape, self.num_joints)

    def __call__(
        self,
        sample: Sample,
        shape: tuple[int, int],
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill the arrays of `layout`. Raises images.ImageError."""
        mirrors = self.mirrored is not None and bool(rng.random() < 0.5)
        _fill(sample, self._matrix(sample, shape, mirrors, rng), shape, out)
        if mirrors:
            out["points"][...] = out["points"][list(self.mirrored or ())]
        jitter_colour(
            out["image"], rng, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation
        )

    def _matrix(
        self, sample: Sample, shape: tuple[int, int], mirrors: bool, rng: np.random.Generator
    ) -> np.ndarray:
        x, y = np.nanmean(points_of(sample).astype(np.float64), axis=0).tolist()
        x1, y1, x2, y2 = part_of(sample) or (0.0, 0.0, float(sample.width), float(sample.height))
        turn, size, right, down = rng.uniform(-1.0, 1.0, 4).tolist()
        factor = (1.0 + self.scale) ** size
        steps = [
            translation(-x, -y),
            rotation(turn * self.degrees),
            scaling(factor, factor),
            translation(x + right * self.shift * (x2 - x1), y + down * self.shift * (y2 - y1)),
        ]
        if mirrors:
            steps.append(mirroring(sample.width))
            x1, x2 = sample.width - x2, sample.width - x1
        return compose(*steps, stretching((x1, y1, x2, y2), shape))
