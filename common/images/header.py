"""What an image file says of itself before it is decoded: kind, size, orientation, whether it is whole."""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

PIXEL_LIMIT = 89_478_485
"""Most pixels of an image: Pillow's own limit, a quarter of a gigabyte of RGB."""

PASS_LIMIT = 500
"""Most passes of a JPEG over its pixels; usual are one, and ten where it is progressive."""

PASSED_LIMIT = 12 * PIXEL_LIMIT
"""Most pixels of a JPEG times its passes: 160 million cost a decoder a second, however few bytes they are."""

_TAIL = 4 * 1024
_SEGMENT_LIMIT = (
    200_000  # far more than an image has; files made of nothing else keep a reader busy for minutes
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OTHER_CONTENT = (
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)


class Refused(Exception):
    """A reason without its file."""


class Header(NamedTuple):
    kind: str
    width: int
    """Stored columns, before `orientation` turns the image."""
    height: int
    orientation: int
    """EXIF orientation, 1 to 8."""
    whole: bool
    """The end of the picture data was seen; if not, only decoding tells whether enough of it is there."""

    @property
    def oriented(self) -> tuple[int, int]:
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


class ImageBytes:
    """Random access to a file of which the first bytes, or all, have been read."""

    __slots__ = ("descriptor", "head", "size")

    def __init__(self, head: bytes, size: int, descriptor: int) -> None:
        self.head = head
        self.size = size
        self.descriptor = descriptor

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`: fewer at the end of the file."""
        if offset + count <= len(self.head) or self.descriptor < 0 or len(self.head) == self.size:
            return self.head[offset : offset + count]
        return os.pread(self.descriptor, count, offset)


def read_header(source: ImageBytes) -> Header:
    """The header of a JPEG, PNG or BMP of at least one and at most PIXEL_LIMIT pixels; else Refused."""
    head = source.head
    if head[:2] == b"\xff\xd8":
        header = _jpeg_header(source)
    elif head[:8] == _PNG_SIGNATURE:
        header = _png_header(source)
    elif head[:2] == b"BM" and len(head) >= 26:
        header = _bmp_header(source)
    elif not head:
        raise Refused("empty file")
    else:
        raise Refused(f"its content is {_content(head)}, not JPEG, PNG or BMP")
    if header.width < 1 or header.height < 1:
        raise Refused(f"its size of {header.width}x{header.height} has no pixel")
    if header.width * header.height > PIXEL_LIMIT:
        raise Refused(
            f"its {header.width}x{header.height} = {header.width * header.height} pixels are more than"
            f" the {PIXEL_LIMIT} that are read"
        )
    return header


def _content(head: bytes) -> str:
    for start, name in _OTHER_CONTENT:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "AVIF, HEIC or video"
    sample = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if sample.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    if sample.startswith((b"<svg", b"<?xml")):
        return "XML or SVG"
    if not any(byte < 32 and byte not in b"\t\r\n\f\x1b" for byte in head[:512]):
        return "text"
    return "not a known kind of file"


def _jpeg_header(source: ImageBytes) -> Header:
    """Walk the segments up to the picture data (ITU-T T.81, annex B)."""
    frame: tuple[int, int, int, int] | None = None
    orientation = 0
    position = 2
    for _ in range(_SEGMENT_LIMIT):
        start = source.at(position, 4)
        if len(start) < 4:
            raise Refused("truncated: the file ends in its header")
        if start[0] != 0xFF or start[1] == 0:  # stray bytes, which decoders pass over
            chunk = source.at(position, _TAIL)
            offset = chunk.find(b"\xff", 1)
            position += offset if offset > 0 else len(chunk)
            continue
        marker = start[1]
        if marker == 0xFF:  # fillers, of which the last belongs to a marker
            chunk = source.at(position, _TAIL)
            position += max(1, len(chunk) - len(chunk.lstrip(b"\xff")) - 1)
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        if marker == 0xD9:
            raise Refused("truncated: no picture data before its end")
        length = (start[2] << 8) | start[3]
        if length < 2:
            raise Refused(f"damaged: segment {marker:02X} of length {length}")
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            body = source.at(position + 4, 6)
            if frame is None and len(body) == 6:
                precision, height, width, components = struct.unpack(">BHHB", body)
                frame = width, height, components, precision
        elif marker == 0xE1 and not orientation:
            body = source.at(position + 4, length - 2)
            if body[:6] == b"Exif\0\0":
                orientation = _exif_orientation(body[6:])
        position += 2 + length
    else:
        raise Refused(f"damaged: more than {_SEGMENT_LIMIT} segments before its picture data")
    if frame is None:
        raise Refused("damaged: no frame header before its picture data")
    width, height, components, precision = frame
    if precision != 8 or components not in (1, 3, 4):
        raise Refused(f"a JPEG of {components} components of {precision} bits, which is not supported")
    # 0xFFD9 cannot occur within picture data (a 0xFF there is followed by 0), so near the end it is the end.
    tail = max(position, source.size - _TAIL)
    whole = source.at(tail, source.size - tail).rfind(b"\xff\xd9") >= 0
    return Header("JPEG", width, height, orientation or 1, whole)


# What ends the picture data of a pass: 0xFF, and no 0 that says that it is data, no restart, no further filler.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def check_passes(data: bytes, header: Header) -> None:
    """Refused, if a decoder of the JPEG `data` would have to go over far more pixels than an image has.

    Passes are counted where a decoder meets them: previews within metadata, and what follows the end, are none.
    """
    most = min(PASS_LIMIT, PASSED_LIMIT // (header.width * header.height))
    passes, position = 0, 2
    for _ in range(_SEGMENT_LIMIT):
        match = _MARKER.search(data, position)
        if match is None or data[match.end() - 1] == 0xD9:
            return
        position, marker = match.end(), data[match.end() - 1]
        if marker == 0xDA:
            passes += 1
            if passes > most:
                pixels = f"{header.width}x{header.height}"
                raise Refused(
                    f"a JPEG of more than {most} passes over {pixels} pixels, which takes too long to decode"
                )
        if marker != 0x01 and marker != 0xD8:
            position += int.from_bytes(data[position : position + 2], "big")
    raise Refused(f"damaged: more than {_SEGMENT_LIMIT} segments")


def _png_header(source: ImageBytes) -> Header:
    """Walk the chunks to the last (PNG specification, section 5)."""
    start = source.at(8, 16)
    if len(start) < 16:
        raise Refused("truncated: the file ends in its header")
    length, name, width, height = struct.unpack(">I4sII", start)
    if name != b"IHDR" or length != 13:
        raise Refused("damaged: a PNG that does not begin with its header")
    orientation = 0
    whole = False
    position = 8
    for _ in range(_SEGMENT_LIMIT):
        start = source.at(position, 8)
        if len(start) < 8:
            break
        length, name = struct.unpack(">I4s", start)
        position += 12 + length
        if position > source.size:
            break
        if name == b"IEND":
            whole = True
            break
        if name == b"eXIf" and not orientation and length < 1 << 20:
            orientation = _exif_orientation(source.at(position - 4 - length, length))
    else:
        raise Refused(f"damaged: more than {_SEGMENT_LIMIT} chunks")
    return Header("PNG", width, height, orientation or 1, whole)


def _bmp_header(source: ImageBytes) -> Header:
    data = source.at(0, 54)
    offset, information = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 14)[0]
    if information == 12:  # OS/2 1.x
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif information >= 40 and len(data) == 54:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: rows from the top
    else:
        raise Refused(f"a BMP with a header of {information} bytes, which is not supported")
    rows = (width * bits + 31) // 32 * 4 * height
    whole = compression not in (0, 3) or source.size >= offset + rows
    return Header("BMP", width, height, 1, whole)


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory (Exif 2.32, section 4.5.4); 0 where there is none that is valid."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 0
    (position,) = struct.unpack_from(order + "I", tiff, 4)
    if position + 2 > len(tiff):
        return 0
    (entries,) = struct.unpack_from(order + "H", tiff, position)
    for entry in range(position + 2, min(position + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, entry)
        if tag == 0x0112:
            (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
            return value if 1 <= value <= 8 else 0
    return 0
