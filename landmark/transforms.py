"""How a sample becomes the landmark network's input: image and keypoints move by the same matrix."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from common.data.samples import Sample
from common.images.augment import (
    compose,
    invert,
    mirroring,
    rotation,
    scaling,
    stretching,
    transform_points,
    translation,
)
from common.loading.batches import Layout, Shape
from common.loading.transforms import RandomView
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


@dataclass(frozen=True)
class LandmarkTransform(RandomView):
    """Turned, scaled and shifted about the middle of the keypoints, in random colours, perhaps mirrored.

    degrees, scale: up to so much either way; shift: share of the image's sides. mirrored: a table of
    `landmark.mirroring`, or None for no mirroring. The image is stretched to the input, as in evaluation. Arrays: see
    `layout`.
    """

    num_joints: int
    mirrored: tuple[int, ...] | None = None
    degrees: float = 20.0
    scale: float = 0.15
    shift: float = 0.06
    _: KW_ONLY
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def layout(self, shape: Shape) -> Layout:
        """See `layout`."""
        return layout(shape, self.num_joints)

    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """About the middle of the keypoints, perhaps mirrored."""
        return self._matrix(sample, shape, self.mirrored is not None and bool(rng.random() < 0.5), rng)

    def targets(self, sample: Sample, seen: np.ndarray, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """The keypoints; in a mirrored image each has the place of its partner."""
        points = transform_points(points_of(sample).astype(np.float64), seen) / shape
        mirrors = np.linalg.det(seen[:, :2]) < 0
        out["points"][...] = points[list(self.mirrored or ())] if mirrors else points
        out["matrix"][...] = invert(seen)

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
