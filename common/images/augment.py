"""Image augmentation in numpy and OpenCV: affine maps, one warp, one colour matrix, random erasing, mixup.

Coordinates are continuous: the pixel in column i covers [i, i + 1), so an image of width w spans 0 … w, a box
that touches its right edge ends at w, and mirroring maps x to w - x. Matrices are (2, 3) float64 and map
points of the source to points of the target. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean colour in RGB: what an image is surrounded with, nearly zero after normalisation."""

# Weights of ITU-R BT.601 luma, and the chroma plane (I, Q) of the NTSC standard: a rotation in it turns the hue.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_LUMA = _RGB_TO_YIQ[0]
# Standard deviation along the principal components of RGB in ImageNet ("ImageNet Classification with Deep
# Convolutional Neural Networks", Krizhevsky et al. 2012; the figures are those of torch's and GluonCV's lighting).
_LIGHTING = (
    255.0
    * np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    @ np.diag([0.2175, 0.0188, 0.0045])
)

# OpenCV's warp addresses its source with signed 16-bit numbers.
_LONGEST_SIDE = 32766


def translation(x: float, y: float) -> np.ndarray:
    """The map that shifts by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def scaling(x: float, y: float) -> np.ndarray:
    """The map that scales by x and y about the origin."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0]])


def rotation(degrees: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The map that turns by `degrees` about `centre`, clockwise as seen on the screen (y points down)."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = centre
    return np.array(
        [[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]],
    )


def mirroring(width: float) -> np.ndarray:
    """The map that mirrors an image of `width` left to right."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0]])


def stretching(
    region: tuple[float, float, float, float], size: tuple[int, int], mirrored: bool = False
) -> np.ndarray:
    """The map of `region` (x1, y1, x2, y2) of an image onto all of a target of `size` (width, height)."""
    x1, y1, x2, y2 = region
    scale_x, scale_y = size[0] / (x2 - x1), size[1] / (y2 - y1)
    if mirrored:
        return np.array([[-scale_x, 0.0, size[0] + scale_x * x1], [0.0, scale_y, -scale_y * y1]])
    return np.array([[scale_x, 0.0, -scale_x * x1], [0.0, scale_y, -scale_y * y1]])


def compose(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The map that applies the given ones in their order."""
    combined = first
    for matrix in others:
        combined = matrix[:, :2] @ combined
        combined[:, 2] += matrix[:, 2]
    return combined


def invert(matrix: np.ndarray) -> np.ndarray:
    """The map back; raises numpy.linalg.LinAlgError where there is none."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points (..., 2) by `matrix`."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map boxes (n, 4) of x1, y1, x2, y2 to the upright boxes around what becomes of them, not clipped."""
    corners = transform_points(boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def stretch(matrix: np.ndarray) -> tuple[float, float]:
    """How many pixels of the target a pixel of the source measures along the source's x and y."""
    return math.hypot(matrix[0, 0], matrix[1, 0]), math.hypot(matrix[0, 1], matrix[1, 1])


def snap(matrix: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """The upright map nearest to `matrix` that takes whole pixels to whole pixels; `warp` draws it faster.

    The visible part of a source of size (width, height) moves by half a pixel of it at most at each edge, or
    of the target where the source ends within it; parts of a few pixels stay where they are.
    """
    snapped = matrix.copy()
    for axis in (0, 1):
        snapped[axis, axis], snapped[axis, 2] = _snap_axis(
            float(matrix[axis, axis]), float(matrix[axis, 2]), source[axis], target[axis]
        )
    return snapped


def _snap_axis(scale: float, shift: float, source: int, target: int) -> tuple[float, float]:
    # Sources that are shrunk are halved first, as long as that leaves enough: whole pixels then are those.
    unit = 1
    while unit < 8 and 2 * unit * abs(scale) <= 1:
        unit *= 2
    ends = []
    for edge in (0, target) if scale > 0 else (target, 0):
        position = (edge - shift) / scale
        if position < 0 or position > source:
            position = min(max(position, 0), source)
            edge = round(scale * position + shift)
        else:
            position = min(round(position / unit) * unit, source)
        ends.append((position, edge))
    (low, start), (high, end) = ends
    if high - low < 16 * unit or abs(end - start) < 16:
        return scale, shift
    scale = (end - start) / (high - low)
    return scale, start - scale * low


def warp(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    fill: tuple[int, int, int] = MEAN_COLOUR,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw `image` under `matrix` into a target of `size` (width, height), bilinearly, `fill` beside it.

    Where the target has less than half of the source's resolution, the source is averaged down first, so
    nothing aliases. `out` may be a view of a larger array whose pixels are contiguous, and is returned if given.
    """
    width, height = size
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    image, matrix = _reduce(image, matrix)
    if matrix[0, 1] or matrix[1, 0]:
        _into(
            out,
            cv2.warpAffine(
                image,
                _between_centres(matrix),
                size,
                dst=out,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=fill,
            ),
        )
        return out
    # Without a rotation the image lands on a rectangle: warping only that one is faster, and its border does
    # not fade into the fill.
    left, right = _covered(matrix[0, 0], matrix[0, 2], image.shape[1], width)
    top, bottom = _covered(matrix[1, 1], matrix[1, 2], image.shape[0], height)
    if left >= right or top >= bottom:
        paint(out, fill)
        return out
    for strip in (out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:]):
        paint(strip, fill)
    _draw_upright(image, matrix, (left, top, right, bottom), out[top:bottom, left:right])
    return out


def _reduce(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average `image` down until `matrix` shrinks it by less than two; returns it and its matrix."""
    original = (image.shape[1], image.shape[0])
    scales = stretch(matrix)
    while True:
        size = (image.shape[1], image.shape[0])
        target = tuple(
            length // 2 if length > 1 and (2 * scale * whole <= length or length > _LONGEST_SIDE) else length
            for length, scale, whole in zip(size, scales, original, strict=True)
        )
        if target == size:
            break
        # Half way between two pixels, linear interpolation is their mean; averages of more take far longer.
        image = cv2.resize(image, target, interpolation=cv2.INTER_LINEAR)
    if size == original:
        return image, matrix
    return image, compose(scaling(original[0] / size[0], original[1] / size[1]), matrix)


def _between_centres(matrix: np.ndarray) -> np.ndarray:
    """`matrix` for OpenCV's warp, in whose coordinates pixel centres are whole numbers."""
    return np.column_stack([matrix[:, :2], matrix[:, :2] @ (0.5, 0.5) + matrix[:, 2] - 0.5])


def _covered(scale: float, shift: float, length: int, target: int) -> tuple[int, int]:
    """First and last + 1 of the target's pixels whose centre lies on the source's side of `length`."""
    low, high = sorted((shift, shift + scale * length))
    return max(0, math.ceil(low - 0.5 - 1e-6)), min(target, math.ceil(high - 0.5 - 1e-6))


def _draw_upright(
    image: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int], out: np.ndarray
) -> None:
    """Fill `out`, which is `box` of the target and lies within the image under the upright `matrix`."""
    (scale_x, _, shift_x), (_, scale_y, shift_y) = matrix.tolist()
    left, top, right, bottom = box
    x1, x2 = sorted(((left - shift_x) / scale_x, (right - shift_x) / scale_x))
    y1, y2 = sorted(((top - shift_y) / scale_y, (bottom - shift_y) / scale_y))
    edges = [round(edge) for edge in (x1, y1, x2, y2)]
    off = max(abs(edge - whole) for edge, whole in zip((x1, y1, x2, y2), edges, strict=True))
    if off < 1e-3 and edges[0] < edges[2] and edges[1] < edges[3]:
        # Whole pixels of the source: OpenCV's resize does the same three times as fast as its warp.
        part = image[edges[1] : edges[3], edges[0] : edges[2]]
        _into(out, cv2.resize(part, (right - left, bottom - top), dst=out, interpolation=cv2.INTER_LINEAR))
        if scale_x < 0 or scale_y < 0:
            _into(out, cv2.flip(out, -1 if scale_x < 0 and scale_y < 0 else int(scale_x < 0), dst=out))
        return
    local = compose(matrix, translation(-left, -top))
    _into(
        out,
        cv2.warpAffine(
            image,
            _between_centres(local),
            (right - left, bottom - top),
            dst=out,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ),
    )


def _into(out: np.ndarray, result: np.ndarray) -> None:
    """See to it that OpenCV's `result` is in `out`: some layouts it cannot write to, and takes new memory."""
    if result is not out:
        out[...] = result


def paint(out: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill `out` (H, W, 3) with `colour`: a row, then copies of it, is far faster than pixel by pixel."""
    if out.size:
        out[0] = colour
        out[1:] = out[0]


def jitter_colour(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    lighting: float = 0.0,
    probability: float = 1.0,
) -> None:
    """Change the colours of `image` in place, at random, in a single pass over the pixels.

    Each of the first four happens with `probability`: the image times 1 ± brightness; the distance from its
    mean grey times 1 ± contrast; the distance of each pixel from its own grey times 1 ± saturation; the hue
    turned by up to ± hue degrees. `lighting` is the standard deviation of AlexNet's PCA noise (0.1 in the paper).
    """
    matrix = colour_matrix(image, rng, brightness, contrast, saturation, hue, lighting, probability)
    if matrix is not None:
        _into(image, cv2.transform(image, matrix, dst=image))


def colour_matrix(
    image: np.ndarray,
    rng: np.random.Generator,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    lighting: float,
    probability: float,
) -> np.ndarray | None:
    """The (3, 4) matrix of `jitter_colour`'s random change, or None if nothing is to be changed.

    All the changes are linear, and all but the offset of lighting commute: brightness and contrast are
    multiples of the identity about a grey, saturation and hue leave greys as they are. So their order need
    not be random.
    """
    happens = (rng.random(4) < probability).tolist()
    amounts = rng.uniform(-1.0, 1.0, 4).tolist()
    limits = (brightness, contrast, saturation, hue)
    bright, contrasting, saturated, turned = (
        limit * amount if happen else 0.0
        for limit, amount, happen in zip(limits, amounts, happens, strict=True)
    )
    noise = rng.normal(0.0, lighting, 3) if lighting > 0 else None
    if not (bright or contrasting or saturated or turned) and noise is None:
        return None
    linear, offset = np.eye(3), np.zeros(3)
    if saturated or turned:
        chroma, angle = 1.0 + saturated, math.radians(turned)
        cosine, sine = chroma * math.cos(angle), chroma * math.sin(angle)
        linear = _YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _RGB_TO_YIQ
    if contrasting:
        # A few hundred pixels give the mean closely enough.
        step = max(1, min(image.shape[:2]) // 24)
        grey = float(image[::step, ::step].reshape(-1, 3).mean(axis=0) @ _LUMA)
        linear = linear * (1.0 + contrasting)
        offset = offset - contrasting * grey
    linear, offset = linear * (1.0 + bright), offset * (1.0 + bright)
    if noise is not None:
        offset = offset + _LIGHTING @ noise
    return np.column_stack([linear, offset])


def erase(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    max_aspect: float = 3.3,
) -> None:
    """Overwrite a random rectangle of `image` in place with noise ("Random Erasing", Zhong et al. 2017).

    `area` is the range of the rectangle's share of the image, `max_aspect` the greatest ratio of its sides. A
    rectangle that would not fit is cut down to the image.
    """
    if rng.random() >= probability:
        return
    height, width = image.shape[:2]
    surface = rng.uniform(*area) * height * width
    aspect = math.exp(rng.uniform(-1.0, 1.0) * math.log(max_aspect))
    erased_width = min(width, max(1, round(math.sqrt(surface * aspect))))
    erased_height = min(height, max(1, round(math.sqrt(surface / aspect))))
    left = int(rng.integers(0, width - erased_width + 1))
    top = int(rng.integers(0, height - erased_height + 1))
    noise = np.frombuffer(rng.bytes(erased_height * erased_width * 3), np.uint8)
    image[top : top + erased_height, left : left + erased_width] = noise.reshape(
        erased_height, erased_width, 3
    )


def mixup_share(alpha: float, seed: int, epoch: int, batch: int) -> np.ndarray:
    """Share (1,) float32 that the images of a batch keep of themselves in a mixture: a draw from Beta(alpha, alpha).

    With an alpha of 0 they are not mixed. Zhang et al. 2017, "mixup".
    """
    share = np.random.default_rng([seed, epoch, batch]).beta(alpha, alpha) if alpha else 1.0
    return np.array([share], np.float32)
