"""How a sample becomes the classifier's input: a region of its image, drawn in one warp."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np

from common.data.samples import Sample
from common.images.augment import stretching
from common.images.resize import Region
from common.loading.batches import Layout, Shape
from common.loading.transforms import RandomView

#: Share of the image's shorter side that evaluation looks at: the field's 224 of 256 pixels.
CENTRE = 0.875


def layout(shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of one sample: "image" (H, W, 3) uint8 RGB and "label", the class id."""
    return {"image": ((shape[1], shape[0], 3), "uint8"), "label": ((), "float32")}


def box_of(sample: Sample) -> Region:
    """The sample's part of its image: x1, y1, x2, y2 in pixels."""
    if is_whole(sample):
        return 0.0, 0.0, float(sample.width), float(sample.height)
    x1, y1, x2, y2 = (float(edge) for edge in sample.annotation[1:5])
    return x1, y1, x2, y2


def is_whole(sample: Sample) -> bool:
    """Whether the sample is its image, and no box in it, which may be as large."""
    return len(sample.annotation) == 1


def region_of(sample: Sample) -> Region | None:
    """The box that the sample is, None if it is all of its image."""
    return None if is_whole(sample) else box_of(sample)


def random_crop(
    region: Region, aspect: float, least_area: float, distortion: float, rng: np.random.Generator
) -> Region:
    """A random part of `region`: `least_area` of it or more, of `aspect` (width / height) up to `distortion`.

    As Inception's (Szegedy et al. 2014), but a crop that does not fit is scaled down until it does, where
    others try again.
    """
    x1, y1, x2, y2 = region
    area = (x2 - x1) * (y2 - y1) * rng.uniform(least_area, 1.0)
    aspect = aspect * math.exp(rng.uniform(-1.0, 1.0) * math.log(distortion))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fitting = min(1.0, (x2 - x1) / width, (y2 - y1) / height)
    width, height = width * fitting, height * fitting
    left, top = x1 + rng.random() * (x2 - x1 - width), y1 + rng.random() * (y2 - y1 - height)
    return left, top, left + width, top + height


def jitter_box(box: Region, size: tuple[int, int], amount: float, rng: np.random.Generator) -> Region:
    """`box` with its edges moved by up to `amount` (below 0.5) of its sides, within an image of `size`."""
    x1, y1, x2, y2 = box
    moves = rng.uniform(-amount, amount, 4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    left, top, right, bottom = (np.array(box) + moves).clip(0.0, (*size, *size)).tolist()
    return left, top, right, bottom


@dataclass(frozen=True)
class CropTransform(RandomView):
    """A random part of the image, mirrored in half of the cases, in random colours.

    A whole image gives a random crop; a box gives itself with jittered edges, stretched to the input. The strength of
    the colours' changes is GluonCV's for ImageNet. Arrays: see `layout`.
    """

    least_area: float = 0.25
    distortion: float = 4.0 / 3.0
    box_jitter: float = 0.1
    mirror: float = 0.5
    _: KW_ONLY
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    lighting: float = 0.1

    def layout(self, shape: Shape) -> Layout:
        """See `layout`."""
        return layout(shape)

    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """A crop of the image, or the box about as it is; perhaps mirrored."""
        if is_whole(sample):
            region = random_crop(box_of(sample), shape[0] / shape[1], self.least_area, self.distortion, rng)
        else:
            region = jitter_box(box_of(sample), (sample.width, sample.height), self.box_jitter, rng)
        return stretching(region, shape, mirrored=bool(rng.random() < self.mirror))

    def targets(self, sample: Sample, seen: np.ndarray, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """The class."""
        out["label"][...] = sample.annotation[0]
