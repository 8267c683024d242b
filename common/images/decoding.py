"""Image files to 8-bit RGB pixels, as a person sees them, or one sentence on why not.

The content decides what a file is, not its name. Image files are untrusted: their sizes are checked before
memory is taken, half a file is refused rather than filled up with grey, and whatever the bytes are, the
answer is pixels or an `ImageError`. JPEG is decoded by libjpeg-turbo (simplejpeg), the rest by Pillow; OpenCV
only ever sees pixels.
"""

from __future__ import annotations

import io
import os
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from common.files import open_regular, read_file, readable
from common.images.header import Header, ImageBytes, Refused, check_passes, read_header
from common.images.marks import mark_of

FILE_LIMIT = 1 << 30
"""Most bytes of a file: more than the largest uncompressed image within PIXEL_LIMIT takes."""

_HEAD = 32 * 1024
# What libjpeg-turbo warns about when picture data are missing or garbled. Its other warnings (stray bytes
# between segments, odd version numbers, the scan parameters of some phones) leave the picture whole, and
# Pillow takes it.
_DAMAGE = ("premature end", "huffman code", "instead of rst", "bad progression")


class ImageError(Exception):
    """An image file that cannot be read: `path` as it was given and `reason` in words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def printable(path: str) -> str:
    """`path` on one line and encodable as UTF-8: as `readable` has it, control characters as backslash escapes."""
    if path.isprintable():
        return path
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in readable(path)
    )


def probe(path: str) -> tuple[int, int]:
    """Width and height in pixels, after EXIF orientation, of an image that `decode` can be expected to read.

    Reads the header and looks for the end of the picture data; only a file whose end is not where it belongs
    is decoded to see whether it is whole.

    Raises:
        ImageError: not an image that can be read, cut off, or larger than PIXEL_LIMIT.
    """
    return probe_marked(path)[:2]


def probe_marked(path: str) -> tuple[int, int, int]:
    """Width and height as `probe` tells them, and the file's mark (`common.images.marks`). Raises ImageError."""
    header, mark = _header(path)
    return *(header.oriented if header.whole else decode(path)[1]), mark


def orientation(path: str) -> int:
    """EXIF orientation of an image, 1 to 8. Raises ImageError."""
    return _header(path)[0].orientation


def _header(path: str) -> tuple[Header, int]:
    """What a file says of itself, and its mark."""
    try:
        descriptor = open_regular(path)
        try:
            size = os.fstat(descriptor).st_size
            source = ImageBytes(os.pread(descriptor, min(size, _HEAD), 0), size, descriptor)
            return read_header(source), mark_of(source)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    except Refused as error:
        raise ImageError(path, str(error)) from None


def decode(path: str, minimum: tuple[int, int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels of an image as a person sees it, and its full size.

    Grey, palette, bilevel and CMYK images become RGB, 16 bits become 8 over the whole range, and an alpha
    channel is dropped without compositing, as OpenCV and Pillow do when asked for colours: what consumers of
    the trained model feed it is made that way.

    Args:
        path: a JPEG, PNG or BMP file, whatever its extension.
        minimum: (width, height) that are enough. A JPEG of at least twice that is decoded at a half, a quarter or
            an eighth of its size, which is faster; the pixels then cover the same picture, and coordinates scale.

    Returns:
        (height, width, 3) uint8 RGB, C-contiguous and writable, and the (width, height) of the undiminished image.

    Raises:
        ImageError: not an image that can be read, damaged, cut off, or larger than PIXEL_LIMIT.
    """
    try:
        data = read_file(path, FILE_LIMIT)
        header = read_header(ImageBytes(data, len(data), -1))
        pixels = _decode_jpeg(data, header, minimum) if header.kind == "JPEG" else None
        if pixels is None:
            pixels = _decode_with_pillow(data, header)
        return _orient(pixels, header.orientation), header.oriented
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    except Refused as error:
        raise ImageError(path, str(error)) from None
    except MemoryError:
        raise ImageError(path, "not enough memory to decode it") from None


def _decode_jpeg(data: bytes, header: Header, minimum: tuple[int, int] | None) -> np.ndarray | None:
    """Pixels as stored, or None for what Pillow should have a try at."""
    check_passes(data, header)
    width, height = _reduced(header, minimum)
    try:
        # With min_factor 2, asked for exactly a half, a quarter or an eighth: libjpeg-turbo has vector code
        # for these alone, other fractions take longer than the whole.
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2)
    except ValueError as error:
        text = str(error)
        if "premature end of jpeg file" in text.lower():
            raise Refused("truncated: the file ends in its picture data") from None
        if any(sign in text.lower() for sign in _DAMAGE):
            raise Refused(f"damaged: {text}") from None
        return None
    if pixels.shape[:2] != (height, width):
        raise Refused(f"damaged: two sizes, {width}x{height} and {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


def _reduced(header: Header, minimum: tuple[int, int] | None) -> tuple[int, int]:
    """The least stored (width, height) to decode to: of a half, a quarter, an eighth, or of the full size."""
    if minimum is None:
        return header.width, header.height
    least_width, least_height = minimum[::-1] if header.orientation >= 5 else minimum
    for factor in (8, 4, 2):
        width, height = -(-header.width // factor), -(-header.height // factor)
        if width >= least_width and height >= least_height:
            return width, height
    return header.width, header.height


def _decode_with_pillow(data: bytes, header: Header) -> np.ndarray:
    try:
        # Pillow warns about sizes and odd metadata; sizes are checked, and the rest does not change pixels.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # GluonCV switches this on for the whole process when it is imported.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            with Image.open(io.BytesIO(data), formats=[header.kind]) as image:
                if image.size != (header.width, header.height):
                    raise Refused(f"damaged: two sizes, {header.width}x{header.height} and {image.size}")
                image.load()
                if image.mode in ("I", "I;16", "I;16B", "I;16L"):
                    # convert() would clip at 255. The high byte is what 16-bit RGB is reduced to as well.
                    high = (np.asarray(image) >> 8).astype(np.uint8)
                    return np.repeat(high[:, :, None], 3, axis=2)
                return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (Refused, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise whatever the bytes led to: OSError, SyntaxError, ValueError, struct.error,
        # zlib.error
        text = " ".join(str(error).split()) or type(error).__name__
        if "truncated" in text.lower():
            raise Refused("truncated: the file ends in its picture data") from None
        if "cannot identify" in text:
            text = f"its {header.kind} header"
        raise Refused(f"damaged: {text}") from None


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return pixels
    if orientation == 2:
        return cv2.flip(pixels, 1)
    if orientation == 3:
        return cv2.rotate(pixels, cv2.ROTATE_180)
    if orientation == 4:
        return cv2.flip(pixels, 0)
    if orientation == 5:
        return cv2.transpose(pixels)
    if orientation == 6:
        return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
    if orientation == 7:
        return cv2.flip(cv2.transpose(pixels), -1)
    return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
