"""How a training sample of a detection set becomes arrays, for YOLOv3, SSD and CenterNet.

Boxes are continuous coordinates, in input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from common.data.boxes import objects_of
from common.data.drawing import draw_sample
from common.data.samples import Sample
from common.images import augment
from common.loading.batches import Layout, Shape
from common.loading.transforms import RandomView
from detect.geometry import choose_crop, store_objects, visible_objects

BLACK = (0, 0, 0)
# A mosaic may hold this many objects even if the images of a set hold few.
_MOSAIC_OBJECTS = 100


@dataclass(frozen=True)
class YOLOv3Training(RandomView):
    """Expansion, a crop that keeps boxes, mirroring and colour, stretched to the input; optionally mosaics. SSD's too,
    which invented expansion and crops.

    max_objects: most objects of any image of the set. flip, expand, crop: probabilities. max_expansion: the
    canvas, filled with the mean colour, is up to so many times as wide and high as the image. min_crop,
    max_aspect: see choose_crop. min_visible: the share of its area from which on an object is kept.
    brightness, contrast and saturation are factors 1 ± so much, hue is in degrees, each with the probability
    `colour`. mosaic: the probability of making the input of four images, each drawn in `mosaic_scale` times
    the input size ("YOLOv4: Optimal Speed and Accuracy of Object Detection", Bochkovskiy et al. 2020).

    Arrays: image (H, W, 3); boxes (rows, 5) of x1, y1, x2, y2 in input pixels and class id, unused rows -1.
    """

    max_objects: int
    flip: float = 0.5
    expand: float = 0.5
    max_expansion: float = 2.0
    crop: float = 1.0
    min_crop: float = 0.3
    max_aspect: float = 2.0
    min_visible: float = 0.25
    mosaic: float = 0.0
    mosaic_scale: tuple[float, float] = (0.4, 1.2)
    _: KW_ONLY
    colour: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18.0

    @property
    def rows(self) -> int:
        """Rows of the array of boxes."""
        if not self.mosaic:
            return max(1, self.max_objects)
        return max(1, self.max_objects, min(4 * self.max_objects, _MOSAIC_OBJECTS))

    def layout(self, shape: tuple[int, int]) -> Layout:
        """Arrays of one sample for an input of `shape` (width, height)."""
        return {"image": ((shape[1], shape[0], 3), "uint8"), "boxes": ((self.rows, 5), "float32")}

    def show(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        image: np.ndarray,
    ) -> np.ndarray:
        """The objects (n, 5) that are seen: x1, y1, x2, y2 in input pixels and class id."""
        if self.mosaic and rng.random() < self.mosaic:
            return self._mosaic(sample, shape, rng, draw, image)
        matrix = super().show(sample, shape, rng, draw, image)
        return visible_objects(sample.annotation, matrix, shape, self.min_visible)

    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """Of one image: expanded or cropped, and perhaps mirrored."""
        matrix = augment.stretching(self._region(sample, rng), shape, bool(rng.random() < self.flip))
        return augment.snap(matrix, (sample.width, sample.height), shape)

    def targets(self, sample: Sample, seen: np.ndarray, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """Store the objects."""
        store_objects(seen, out["boxes"])

    def _region(self, sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """The part of the plane around the image that is stretched to the input, in pixels of the image."""
        ratio = 1.0
        if rng.random() < self.expand:
            ratio = float(rng.uniform(1.0, self.max_expansion))
        width, height = sample.width * ratio, sample.height * ratio
        shift_x, shift_y = (rng.random(2) * (width - sample.width, height - sample.height)).tolist()
        x1, y1, x2, y2 = 0.0, 0.0, width, height
        if rng.random() < self.crop:
            boxes = objects_of(sample.annotation)[:, 1:] + (shift_x, shift_y, shift_x, shift_y)
            x1, y1, x2, y2 = choose_crop(
                boxes, (width, height), rng, self.min_crop, self.max_aspect, self.min_visible
            )
        return x1 - shift_x, y1 - shift_y, x2 - shift_x, y2 - shift_y

    def _mosaic(
        self,
        sample: Sample,
        shape: tuple[int, int],
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        image: np.ndarray,
    ) -> np.ndarray:
        """Draw the sample and three others into the quarters around a random centre; returns their objects.

        An image whose objects would not fit into the rows is left out, its quarter stays empty: no object may
        be seen that is not among the boxes.
        """
        width, height = shape
        centre_x = int(width * rng.uniform(0.3, 0.7))
        centre_y = int(height * rng.uniform(0.3, 0.7))
        spans_x, spans_y = ((0, centre_x), (centre_x, width)), ((0, centre_y), (centre_y, height))
        samples = [sample, draw(), draw(), draw()]
        placed: list[np.ndarray] = []
        free = self.rows
        for index, quarter in enumerate(rng.permutation(4).tolist()):
            (x1, x2), (y1, y2) = spans_x[quarter % 2], spans_y[quarter // 2]
            view = image[y1:y2, x1:x2]
            matrix = self._into_quarter(samples[index], shape, (x2 - x1, y2 - y1), quarter, rng)
            objects = visible_objects(samples[index].annotation, matrix, (x2 - x1, y2 - y1), self.min_visible)
            if len(objects) > free:
                augment.paint(view, augment.MEAN_COLOUR)
                continue
            if view.size:
                draw_sample(samples[index], matrix, augment.MEAN_COLOUR, view)
            free -= len(objects)
            placed.append(objects + np.array([x1, y1, x1, y1, 0]))
        return np.concatenate(placed) if placed else np.empty((0, 5))

    def _into_quarter(
        self,
        sample: Sample,
        shape: tuple[int, int],
        size: tuple[int, int],
        quarter: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The map of a sample's image to a quarter of a mosaic; quarters are numbered row by row.

        An image larger than the quarter lies at random, a smaller one in the corner at the mosaic's centre.
        """
        scale = rng.uniform(*self.mosaic_scale)
        aspect = math.sqrt(1.25) ** rng.uniform(-1.0, 1.0)
        drawn = (max(1, round(shape[0] * scale * aspect)), max(1, round(shape[1] * scale / aspect)))
        whole = (0.0, 0.0, float(sample.width), float(sample.height))
        matrix = augment.stretching(whole, drawn, bool(rng.random() < self.flip))
        shifts = []
        for length, room, far in zip(drawn, size, (quarter % 2, quarter // 2), strict=True):
            if length > room:
                shifts.append(-int(rng.integers(0, length - room + 1)))
            else:
                shifts.append(0 if far else room - length)
        matrix = augment.compose(matrix, augment.translation(*shifts))
        return augment.snap(matrix, (sample.width, sample.height), size)


@dataclass(frozen=True)
class CenterNetTraining(RandomView):
    """A random scale and centre, mirroring and colour ("Objects as Points", Zhou et al. 2019).

    The region that is seen measures the letterboxed input's times a factor drawn from 1 - scale, … 1 + scale
    in steps of 0.1 (the paper's range(0.6, 1.4, 0.1) for 0.4), around a random point of the image that keeps
    up to `border` pixels from its edges. The other arguments and the arrays are those of YOLOv3Training;
    `lighting` is the standard deviation of AlexNet's colour noise.
    """

    beside: ClassVar[tuple[int, int, int]] = BLACK

    max_objects: int
    flip: float = 0.5
    scale: float = 0.4
    border: int = 128
    min_visible: float = 0.25
    _: KW_ONLY
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    lighting: float = 0.1

    def layout(self, shape: tuple[int, int]) -> Layout:
        """Arrays of one sample for an input of `shape` (width, height)."""
        rows = max(1, self.max_objects)
        return {"image": ((shape[1], shape[0], 3), "uint8"), "boxes": ((rows, 5), "float32")}

    def targets(self, sample: Sample, seen: np.ndarray, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """Store the objects that are seen."""
        store_objects(visible_objects(sample.annotation, seen, shape, self.min_visible), out["boxes"])

    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """A random scale about a random centre, perhaps mirrored."""
        steps = round(self.scale / 0.1)
        factor = 1.0 + 0.1 * int(rng.integers(-steps, max(steps, 1 - steps)))
        scale = min(shape[0] / sample.width, shape[1] / sample.height) / factor
        centre = []
        for length in (sample.width, sample.height):
            border = _border(self.border, length)
            centre.append(rng.uniform(border, length - border))
        matrix = augment.compose(
            augment.translation(-centre[0], -centre[1]),
            augment.scaling(scale, scale),
            augment.translation(shape[0] / 2, shape[1] / 2),
        )
        if rng.random() < self.flip:
            matrix = augment.compose(matrix, augment.mirroring(shape[0]))
        return augment.snap(matrix, (sample.width, sample.height), shape)


def _border(border: int, length: int) -> int:
    """The greatest of border, border / 2, border / 4, … that leaves more than nothing between two of it."""
    while length <= 2 * border:
        border //= 2
    return border
