"""How a training sample becomes the ReID network's input: its box or image, stretched so that nothing is lost."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from classification.transforms import box_of, layout
from common.data.samples import Sample
from common.images.augment import compose, erase, stretching, translation
from common.loading.batches import Layout, Shape
from common.loading.transforms import RandomView


@dataclass(frozen=True)
class ShiftTransform(RandomView):
    """Shifted by up to `padding` of the sides, mirrored half of the time, in random colours, partly erased.

    The shift is the field's padding and random crop ("Bag of Tricks ...", Luo et al. 2019: 10 of 256 pixels) in the
    same warp; around a box its surroundings come into view, around an image a plain colour. erasing: probability (Zhong
    et al. 2017). Arrays: see `classification.transforms.layout`.
    """

    padding: float = 10 / 256
    mirror: float = 0.5
    erasing: float = 0.5
    _: KW_ONLY
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def layout(self, shape: Shape) -> Layout:
        """See `classification.transforms.layout`."""
        return layout(shape)

    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """The box or image, moved a little, perhaps mirrored."""
        upright = stretching(box_of(sample), shape, mirrored=bool(rng.random() < self.mirror))
        x, y = rng.uniform(-self.padding, self.padding, 2) * shape
        return compose(upright, translation(float(x), float(y)))

    def disturb(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Erase a rectangle."""
        erase(image, rng, probability=self.erasing)

    def targets(self, sample: Sample, seen: np.ndarray, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """The identity."""
        out["label"][...] = sample.annotation[0]
