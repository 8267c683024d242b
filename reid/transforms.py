"""How a sample becomes the ReID network's input: its box or image, stretched so that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from classification.transforms import box_of, layout
from common.data.drawing import draw_sample
from common.data.samples import Sample
from common.images.augment import MEAN_COLOUR, compose, erase, jitter_colour, stretching, translation


@dataclass(frozen=True)
class TrainingTransform:
    """Shifted by up to `padding` of the sides, mirrored half of the time, in random colours, partly erased.

    The shift is the field's padding and random crop ("Bag of Tricks ...", Luo et al. 2019: 10 of 256 pixels)
    in the same warp; around a box its surroundings come into view, around an image a plain colour. erasing:
    probability (Zhong et al. 2017).
    """

    padding: float = 10 / 256
    mirror: float = 0.5
    erasing: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        """See `classification.transforms.layout`."""
        return layout(shape)

    def __call__(
        self,
        sample: Sample,
        shape: tuple[int, int],
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill "image" and "label". Raises images.ImageError."""
        upright = stretching(box_of(sample), shape, mirrored=bool(rng.random() < self.mirror))
        x, y = rng.uniform(-self.padding, self.padding, 2) * shape
        matrix = compose(upright, translation(float(x), float(y)))
        draw_sample(sample, matrix, MEAN_COLOUR, out["image"])
        jitter_colour(
            out["image"], rng, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation
        )
        erase(out["image"], rng, probability=self.erasing)
        out["label"][...] = sample.annotation[0]
