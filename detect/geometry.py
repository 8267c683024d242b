"""Where the objects of an image end up in an input.

Boxes are continuous coordinates: the pixel in column i covers [i, i + 1). Matrices are those of
common.images.augment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.data.samples import Sample
from common.images import augment

# Crops of YOLOv3's training: the share of every visible box that must be inside, drawn evenly; 1 stands for no crop.
_CROP_LEVELS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_CROP_TRIALS = 12


def visible_objects(
    annotation: np.ndarray, matrix: np.ndarray, size: tuple[int, int], min_visible: float
) -> np.ndarray:
    """Objects (n, 5: id, x1, y1, x2, y2) as they are seen in a target of `size` under an upright `matrix`.

    Returns (m, 5): x1, y1, x2, y2, id, clipped; objects of which less than the share `min_visible` of the area is
    inside are left out. Places of which nothing is known (an id below 0) stay as far as they are inside.
    """
    moved = augment.transform_boxes(annotation[:, 1:5], matrix)
    clipped = np.clip(moved, 0, (size[0], size[1], size[0], size[1]))
    area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    whole = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
    seen = (area > 0) & ((area >= min_visible * whole) | (annotation[:, 0] < 0))
    return np.concatenate([clipped, annotation[:, :1]], axis=1)[seen]


def all_objects(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """The objects of samples together (n, 5), float32 rows of id, x1, y1, x2, y2, and of which sample each is."""
    rows = np.concatenate([np.empty((0, 5), np.float32), *(sample.annotation for sample in samples)])
    owners = np.repeat(np.arange(len(samples)), [len(sample.annotation) for sample in samples])
    counted = rows[:, 0] >= 0
    return (rows, owners) if counted.all() else (rows[counted], owners[counted])


def object_shares(samples: Sequence[Sample]) -> np.ndarray:
    """The objects of samples (n, 4): x1, y1, x2, y2 as shares of their image; those without area are left out."""
    rows, owners = all_objects(samples)
    shares = rows[:, 1:].astype(np.float64)
    sizes = np.array([(sample.width, sample.height) for sample in samples], np.float64).reshape(-1, 2)
    shares.reshape(-1, 2, 2)[...] /= sizes[owners][:, None]
    has_area = (shares[:, 2:] > shares[:, :2]).all(axis=1)
    return shares if has_area.all() else shares[has_area]


def store_objects(objects: np.ndarray, out: np.ndarray) -> None:
    """Write objects (n, 5) to the first rows of `out`, -1 to the others; ValueError if they do not fit."""
    if len(objects) > len(out):
        raise ValueError(f"{len(objects)} objects do not fit into {len(out)} rows: max_objects is too small")
    out[: len(objects)] = objects
    out[len(objects) :] = -1


def choose_crop(
    boxes: np.ndarray,
    size: tuple[float, float],
    rng: np.random.Generator,
    min_scale: float,
    max_aspect: float,
    min_visible: float,
) -> tuple[float, float, float, float]:
    """A random region x1, y1, x2, y2 of a canvas of `size` that keeps boxes (n, 4), as SSD chooses it.

    After "SSD: Single Shot MultiBox Detector", Liu et al. 2016: a level is drawn first, the share of its area
    that each visible box must have inside (a box is visible from min_visible on, and one at least must be);
    then the first of a dozen random regions that fulfils it is taken. If none does, or for the last level, it
    is the canvas. Sides are between min_scale and 1 of the canvas, with an aspect between 1 / max_aspect and
    max_aspect of its own.
    """
    width, height = size
    canvas = (0.0, 0.0, width, height)
    level = _CROP_LEVELS[int(rng.integers(len(_CROP_LEVELS)))]
    if level == 1.0:
        return canvas
    draws = rng.random((4, _CROP_TRIALS))
    scale = min_scale + (1.0 - min_scale) * draws[0]
    widest = np.minimum(max_aspect, scale**-2.0)
    narrowest = 1.0 / widest
    aspect = np.sqrt(narrowest * (widest / narrowest) ** draws[1])
    sides = np.stack([width * scale * aspect, height * scale / aspect])
    x1, y1 = low = (np.array([[width], [height]]) - sides) * draws[2:]
    x2, y2 = low + sides
    if not len(boxes):
        return float(x1[0]), float(y1[0]), float(x2[0]), float(y2[0])
    left, top, right, bottom = boxes.T[:, None, :]
    inner_width = np.minimum(right, x2[:, None]) - np.maximum(left, x1[:, None])
    inner_height = np.minimum(bottom, y2[:, None]) - np.maximum(top, y1[:, None])
    inside = np.maximum(inner_width, 0) * np.maximum(inner_height, 0) / ((right - left) * (bottom - top))
    visible = inside >= max(min_visible, 1e-9)
    fit = visible.any(axis=1) & (~visible | (inside >= level)).all(axis=1)
    if not fit.any():
        return canvas
    index = int(fit.argmax())
    return float(x1[index]), float(y1[index]), float(x2[index]), float(y2[index])


def clip_detections(detections: np.ndarray, width: int, height: int) -> np.ndarray:
    """Clip the boxes of detections (m, 6: class id, score, x1, y1, x2, y2) to an image of width x height.

    Padding (an id below 0) and boxes without area inside of the image are left out, and so are rows with a
    number that is not finite. Returns float64 rows in the given order.
    """
    rows = np.array(detections, np.float64).reshape(-1, 6)
    rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 0] >= 0)]
    # As exact as the text of the result file, so that a box with area keeps it there.
    rows[:, 2:] = np.clip(rows[:, 2:], 0, (width, height, width, height)).round(6)
    return rows[(rows[:, 4:] > rows[:, 2:4]).all(axis=1)]
