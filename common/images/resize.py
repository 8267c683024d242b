"""How an image becomes a network's input when it is predicted: whole pixels and OpenCV's resize, for all to repeat.

What a model was trained on, and how it is fed elsewhere, must agree to the pixel: so the rule is short enough for one
sentence, stands in `model.json`, and is this module alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np

from common.images.augment import paint

Region = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of an image, continuous."""

Mode = Literal["stretch", "letterbox", "centre_crop"]

_INTERPOLATION = (
    "OpenCV's INTER_AREA for width and height that shrink to half or less, INTER_LINEAR for those that do not; where "
    "both occur, first the one that shrinks"
)
_WORDS = {
    "stretch": "the whole image, stretched to width x height, whatever the aspect ratio",
    "letterbox": "scale = min(width / image's, height / image's); the image at round(scale * its size), in the middle "
    "(left and top rounded down), {fill} beside it",
    "centre_crop": "the largest part of the image with the input's aspect ratio, times {share:g}, sides rounded, in "
    "the middle (left and top rounded down), stretched to width x height",
}


@dataclass(frozen=True)
class Resize:
    """From an image of any size to all of an input.

    mode: "stretch" the whole image; "letterbox": keep its aspect ratio, `fill` (RGB) beside it; "centre_crop": the
    middle of it, `share` of the largest part with the input's aspect ratio. A region of an image is stretched in every
    mode.
    """

    mode: Mode = "stretch"
    share: float = 1.0
    fill: tuple[int, int, int] = (0, 0, 0)

    def draw(self, pixels: np.ndarray, out: np.ndarray, region: Region | None = None) -> np.ndarray:
        """Fill `out` (H, W, 3) with an image (h, w, 3), both uint8, or with a region of it.

        Returns the map (2, 3), float64, from pixels of `out` back to pixels of the image.
        """
        (x1, y1, x2, y2), (left, top, right, bottom) = self._places(
            (pixels.shape[1], pixels.shape[0]), (out.shape[1], out.shape[0]), region
        )
        if self.mode == "letterbox":
            for strip in (out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:]):
                paint(strip, self.fill)
        _resize(pixels[y1:y2, x1:x2], out[top:bottom, left:right])
        scale_x, scale_y = (x2 - x1) / (right - left), (y2 - y1) / (bottom - top)
        return np.array([[scale_x, 0.0, x1 - scale_x * left], [0.0, scale_y, y1 - scale_y * top]])

    def scale(self, size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
        """Pixels of an input of `shape` that a pixel of a whole image of `size` becomes, along x and y."""
        (x1, y1, x2, y2), (left, top, right, bottom) = self._places(size, shape, None)
        return (right - left) / (x2 - x1), (bottom - top) / (y2 - y1)

    def _places(
        self, size: tuple[int, int], shape: tuple[int, int], region: Region | None
    ) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
        """The part of an image of `size` that is seen, and the part of an input of `shape` that it fills."""
        (width, height), (wide, high) = size, shape
        everything = (0, 0, wide, high)
        if region is not None:
            x1, y1, x2, y2 = region
            left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
            right, bottom = (
                min(max(-int(-x2 // 1), left + 1), width),
                min(max(-int(-y2 // 1), top + 1), height),
            )
            return (left, top, right, bottom), everything
        if self.mode == "letterbox":
            scale = min(wide / width, high / height)
            drawn = min(max(round(scale * width), 1), wide), min(max(round(scale * height), 1), high)
            left, top = (wide - drawn[0]) // 2, (high - drawn[1]) // 2
            return (0, 0, width, height), (left, top, left + drawn[0], top + drawn[1])
        if self.mode == "centre_crop":
            part = (
                max(round(min(width, height * wide / high) * self.share), 1),
                max(round(min(height, width * high / wide) * self.share), 1),
            )
            left, top = (width - part[0]) // 2, (height - part[1]) // 2
            return (left, top, left + part[0], top + part[1]), everything
        return (0, 0, width, height), everything

    def as_json(self) -> dict[str, Any]:
        """The structure in `model.json`, with the same in words."""
        words = _WORDS[self.mode].format(
            share=self.share, fill="black" if self.fill == (0, 0, 0) else self.fill
        )
        return {
            **asdict(self),
            "fill": list(self.fill),
            "interpolation": _INTERPOLATION,
            "region": "its edges rounded outwards to whole pixels, stretched to width x height",
            "words": words,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Resize:
        """What `as_json` wrote. Raises ValueError for anything else."""
        try:
            mode, share, fill = (
                value["mode"],
                float(value["share"]),
                tuple(int(part) for part in value["fill"]),
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"resize is {str(value)[:80]!r}; mode, share and fill are expected") from None
        if mode not in get_args(Mode) or not 0 < share <= 1 or len(fill) != 3:
            raise ValueError(f"resize is {str(value)[:80]!r}; mode is one of {', '.join(get_args(Mode))}")
        return cls(mode, share, fill)


def _resize(part: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with `part` as `_INTERPOLATION` says: linear interpolation alone would miss pixels of what shrinks."""
    (height, width), (high, wide) = part.shape[:2], out.shape[:2]
    between = wide if 2 * wide <= width else width, high if 2 * high <= height else height
    if between != (width, height):
        part = cv2.resize(part, between, interpolation=cv2.INTER_AREA)
    if between != (wide, high):
        part = cv2.resize(part, (wide, high), interpolation=cv2.INTER_LINEAR)
    out[...] = part
