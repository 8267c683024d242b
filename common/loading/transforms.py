"""The skeleton of every training transform: one random view of the image, random colours, then the targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from common.data.drawing import draw_sample
from common.data.samples import Sample
from common.images.augment import MEAN_COLOUR, jitter_colour
from common.loading.batches import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class RandomView(ABC):
    """Draws each sample at random and fills its arrays; see `common.loading.batches.Transform`.

    The view is planned as one matrix from the original image to the input, so that the image is decoded in no more
    pixels than that needs, and drawn once. brightness, contrast, saturation, hue, lighting: see
    `common.images.augment.jitter_colour`; colour: the probability of each of the first four.
    """

    # What lies beside the image.
    beside: ClassVar[tuple[int, int, int]] = MEAN_COLOUR

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    lighting: float = 0.0
    colour: float = 1.0

    @abstractmethod
    def layout(self, shape: Shape) -> Layout:
        """Arrays of one sample for an input of `shape` (width, height)."""

    @abstractmethod
    def view(self, sample: Sample, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """A random map (2, 3) from pixels of the sample's image to pixels of the input."""

    @abstractmethod
    def targets(self, sample: Sample, seen: Any, shape: Shape, out: dict[str, np.ndarray]) -> None:
        """Fill all arrays but "image". seen: what `show` returned."""

    def show(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        image: np.ndarray,
    ) -> Any:
        """Draw the sample into `image`; returns what its targets are made from: the matrix."""
        matrix = self.view(sample, shape, rng)
        draw_sample(sample, matrix, self.beside, image)
        return matrix

    def disturb(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Change the finished image in place; most transforms leave it."""
        return

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill `out` at random. Raises images.ImageError if an image cannot be decoded."""
        image = out["image"]
        seen = self.show(sample, shape, rng, draw, image)
        jitter_colour(
            image,
            rng,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
            lighting=self.lighting,
            probability=self.colour,
        )
        self.disturb(image, rng)
        self.targets(sample, seen, shape, out)
