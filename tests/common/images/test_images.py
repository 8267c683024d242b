"""Any file is pixels or one sentence: decode, probe."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.images import decoding as images
from common.images.decoding import ImageError, decode, probe

PICTURE = np.dstack(
    [
        np.add.outer(np.arange(48), np.arange(64)) * 2,
        np.subtract.outer(np.arange(48), np.arange(64)) + 100,
        np.full((48, 64), 77),
    ]
).astype(np.uint8)


def encoded(kind: str, pixels: np.ndarray | Image.Image = PICTURE, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    def store(data: bytes, name: str = "a.jpg") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return store


def reason(path: str) -> str:
    """The reason that both functions give for refusing a file."""
    with pytest.raises(ImageError) as decoding:
        decode(path)
    with pytest.raises(ImageError) as probing:
        probe(path)
    assert decoding.value.path == probing.value.path == path
    assert decoding.value.reason == probing.value.reason
    return probing.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.png", "a.bmp"])
def test_content_decides_whatever_the_name(stored: Callable[..., str], kind: str, name: str) -> None:
    path = stored(encoded(kind), name)
    pixels, size = decode(path)
    assert size == probe(path) == (64, 48)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.abs(pixels.astype(int) - PICTURE).max() <= (40 if kind == "JPEG" else 0)


def png16(values: np.ndarray) -> bytes:
    """A 16-bit PNG (grey or RGB), written without the library under test."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_become_eight_over_the_whole_range(stored: Callable[..., str]) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    grey, _ = decode(stored(png16(ramp), "grey.png"))
    colour, _ = decode(stored(png16(np.dstack([ramp] * 3)), "colour.png"))
    assert np.array_equal(grey[..., 0], ramp >> 8)
    assert np.array_equal(grey, colour)


def test_every_mode_becomes_rgb(stored: Callable[..., str]) -> None:
    image = Image.fromarray(PICTURE)
    grey = np.asarray(image.convert("L"))
    for mode, kind in [("L", "PNG"), ("L", "JPEG"), ("L", "BMP"), ("LA", "PNG")]:
        pixels, _ = decode(stored(encoded(kind, image.convert(mode))))
        assert np.abs(pixels - grey[:, :, None].astype(int)).max() <= (8 if kind == "JPEG" else 0), (
            mode,
            kind,
        )
    bilevel, _ = decode(stored(encoded("PNG", image.convert("1"))))
    assert set(np.unique(bilevel)) == {0, 255}
    palette = image.quantize(32)
    pixels, _ = decode(stored(encoded("PNG", palette)))
    assert np.array_equal(pixels, np.asarray(palette.convert("RGB")))


def test_alpha_is_dropped_without_compositing(stored: Callable[..., str]) -> None:
    transparent = np.dstack([PICTURE, np.zeros((48, 64), np.uint8)])
    pixels, _ = decode(stored(encoded("PNG", transparent)))
    assert np.array_equal(pixels, PICTURE)


def test_cmyk_becomes_rgb_by_adobe_convention(stored: Callable[..., str]) -> None:
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:24, :32, 0] = colours[24:, :32, 1] = colours[:, 32:, 2] = 255
    data = encoded("JPEG", Image.fromarray(colours).convert("CMYK"), quality=95)
    pixels, size = decode(stored(data))
    assert size == (64, 48)
    assert np.abs(pixels.astype(int) - colours).max() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(stored: Callable[..., str], kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    path = stored(encoded(kind, exif=exif, **options))
    # numpy's own turns, after the standard's table of where the stored row 0 and column 0 are seen.
    turned = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PICTURE, 1),
    }[orientation]
    pixels, size = decode(path)
    assert pixels.shape == turned.shape
    assert size == probe(path) == (turned.shape[1], turned.shape[0])
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - turned).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_means_none(stored: Callable[..., str], value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    path = stored(encoded("JPEG", exif=exif))
    assert decode(path)[0].shape == (48, 64, 3)
    assert probe(path) == (64, 48)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(stored: Callable[..., str], byte_order: str) -> None:
    tiff = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(
        byte_order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0
    )
    body = b"Exif\0\0" + tiff
    data = encoded("JPEG")
    path = stored(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])
    assert probe(path) == (48, 64)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_may_be_decoded_at_a_fraction_that_is_still_enough(
    stored: Callable[..., str], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stretched = Image.fromarray(PICTURE).resize((643, 481))
    path = stored(encoded("JPEG", stretched, exif=exif))
    full, size = decode(path)
    for wanted, factor in [(640, 1), (322, 2), (321, 2), (161, 4), (81, 8), (3, 8)]:
        minimum = (wanted, 10) if orientation == 1 else (10, wanted)
        pixels, same = decode(path, minimum)
        assert same == size == (full.shape[1], full.shape[0])
        assert pixels.shape[:2] == tuple(-(-side // factor) for side in full.shape[:2])
        assert pixels.shape[1] >= minimum[0]
        assert pixels.shape[0] >= minimum[1]
        resized = Image.fromarray(full).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BOX)
        assert np.abs(pixels.astype(int) - np.asarray(resized)).mean() < 3
    assert decode(path, (5000, 5000))[0].shape == full.shape
    assert decode(stored(encoded("PNG"), "b.png"), (2, 2))[0].shape == (48, 64, 3)


def test_other_content_is_named(stored: Callable[..., str]) -> None:
    picture = Image.fromarray(PICTURE)
    for data, name in [
        (encoded("GIF", picture), "GIF"),
        (encoded("WEBP", picture), "WebP"),
        (encoded("TIFF", picture), "TIFF"),
        (b"<!DOCTYPE html><p>404</p>", "HTML"),
        (b"\xef\xbb\xbfa few words", "text"),
        (bytes(range(40)), "not a known kind of file"),
    ]:
        assert reason(stored(data)) == f"its content is {name}, not JPEG, PNG or BMP"
    assert reason(stored(b"")) == "empty file"


def test_files_that_are_no_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(str(tmp_path / "pipe.jpg")) == "not a regular file"
    assert reason(str(tmp_path)) == "not a regular file"
    assert reason(str(tmp_path / "none.jpg")) == "No such file or directory"


def test_too_many_pixels_are_refused_before_they_take_memory(stored: Callable[..., str]) -> None:
    jpeg = bytearray(encoded("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 9000, 12000)
    png = bytearray(encoded("PNG"))
    png[16:24] = struct.pack(">II", 12000, 9000)
    bmp = bytearray(encoded("BMP"))
    bmp[18:26] = struct.pack("<ii", 12000, -9000)
    for data in (jpeg, png, bmp):
        text = "its 12000x9000 = 108000000 pixels are more than the 89478485 that are read"
        assert reason(stored(bytes(data))) == text


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_cut_anywhere_is_refused(stored: Callable[..., str], options: dict[str, object]) -> None:
    data = encoded("JPEG", **options)
    for end in range(2, len(data) - 1, 7):
        with pytest.raises(ImageError):
            decode(stored(data[:end]))
        with pytest.raises(ImageError):
            probe(stored(data[:end]))
    assert reason(stored(data[: len(data) - 30])).startswith("truncated")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_cut_png_or_bmp_is_refused_or_has_all_its_pixels(stored: Callable[..., str], kind: str) -> None:
    data = encoded(kind)
    refused = 0
    step = max(1, len(data) // 100)
    for end in range(2, len(data), step):
        path = stored(data[:end])
        try:
            assert probe(path) == (64, 48)
            assert np.array_equal(decode(path)[0], PICTURE)
        except ImageError:
            refused += 1
    assert refused > 50
    assert reason(stored(data[: len(data) // 2])).startswith("truncated")


def test_damaged_picture_data_are_refused(stored: Callable[..., str]) -> None:
    data = bytearray(encoded("JPEG", np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)))
    del data[len(data) // 2 : -2]
    with pytest.raises(ImageError, match="damaged"):
        decode(stored(bytes(data)))


@pytest.mark.parametrize("length", [1, 100, 10_000])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_junk_after_the_end_does_no_harm(stored: Callable[..., str], kind: str, length: int) -> None:
    data = encoded(kind)
    path = stored(data + b"\x00junk\xff" * length)
    assert probe(path) == (64, 48)
    assert np.array_equal(decode(path)[0], decode(stored(data, "b"))[0])


def test_warnings_that_leave_the_picture_whole_do_not_refuse_it(stored: Callable[..., str]) -> None:
    data = encoded("JPEG")
    table = data.index(b"\xff\xdb")
    stray = data[:table] + b"\x12\x34\x56" + data[table:]
    path = stored(stray)
    assert probe(path) == (64, 48)
    assert np.array_equal(decode(path)[0], decode(stored(data, "b"))[0])


def test_files_made_to_keep_a_reader_busy_are_refused(stored: Callable[..., str]) -> None:
    frame = encoded("JPEG", progressive=True)
    scan = frame.rindex(b"\xff\xda")
    busy = frame[:scan] + frame[scan:-2] * 600 + b"\xff\xd9"
    with pytest.raises(ImageError, match="more than 500 passes"):
        decode(stored(busy))
    assert "segments" in reason(stored(b"\xff\xd8" + b"\xff\xd0" * 300_000))
    assert reason(stored(b"\xff\xd8" + b"\xff" * 3_000_000)).startswith("truncated")


def of_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    frame = next(
        data.index(bytes([0xFF, marker])) for marker in (0xC0, 0xC2) if bytes([0xFF, marker, 0]) in data
    )
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


@pytest.mark.parametrize("progressive", [True, False])
def test_passes_over_many_pixels_are_refused_before_they_are_made(
    stored: Callable[..., str], progressive: bool
) -> None:
    frame = of_size(encoded("JPEG", progressive=progressive), 9000, 9000)
    scan = frame.rindex(b"\xff\xda")
    began = time.process_time()
    with pytest.raises(ImageError, match="of more than 13 passes over 9000x9000 pixels"):
        decode(stored(frame[:scan] + frame[scan:-2] * 480 + b"\xff\xd9"))
    assert time.process_time() - began < 0.5


def test_previews_and_what_follows_the_picture_are_no_passes(stored: Callable[..., str]) -> None:
    data = of_size(encoded("JPEG"), 64, 48)
    preview = encoded("JPEG", progressive=True) * 3
    segment = b"\xff\xe2" + struct.pack(">H", len(preview) + 2) + preview
    film = encoded("JPEG", progressive=True) * 90
    path = stored(data[:2] + segment * 20 + data[2:] + film)
    assert np.array_equal(decode(path)[0], decode(stored(data, "b"))[0])


@pytest.mark.parametrize("size", [(64, 48), (3000, 2000)])
def test_progressive_pictures_of_usual_passes_are_read(
    stored: Callable[..., str], size: tuple[int, int]
) -> None:
    picture = Image.fromarray(PICTURE).resize(size)
    assert decode(stored(encoded("JPEG", picture, progressive=True)))[1] == size


def test_no_warning_leaves_and_filters_stay_as_they_were(
    stored: Callable[..., str], recwarn: pytest.WarningsRecorder
) -> None:
    palette = Image.fromarray(PICTURE).quantize(8)
    data = encoded("PNG", palette, transparency=bytes(range(8)))
    decode(stored(data))
    assert not recwarn.list


def test_names_with_anything_in_them_work_and_are_told_on_one_line(tmp_path: Path) -> None:
    for name in [b"with blank.jpg", b"a\nb'\".jpg", "漢字.jpg".encode(), b"\xff\xfe.jpg"]:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Path(path).write_bytes(encoded("JPEG"))
        assert probe(path) == (64, 48)
        assert decode(path)[0].shape == (48, 64, 3)
        text = str(ImageError(path, "reason"))
        assert "\n" not in text
        text.encode()
    assert images.printable("/a/漢 字.jpg") == "/a/漢 字.jpg"


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "empty file")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "empty file", "a.jpg: empty file")


def test_size_of_the_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FILE_LIMIT", 1000)
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG") + bytes(1000))
    with pytest.raises(ImageError, match="bytes are more than the 1000"):
        decode(str(tmp_path / "a.jpg"))


SEEDS = [
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    encoded("JPEG", Image.fromarray(PICTURE).convert("CMYK")),
    encoded(
        "JPEG",
        Image.fromarray(PICTURE).convert("L"),
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0",
    ),
    encoded("PNG"),
    encoded("PNG", Image.fromarray(PICTURE).quantize(16)),
    png16(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)),
    encoded("BMP"),
    encoded("BMP", Image.fromarray(PICTURE).quantize(16)),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["set", "cut", "insert", "remove", "header"]))
        if kind == "set":
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[max(1, place) :]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "remove":
            del data[place : place + draw(st.integers(1, 40))]
        else:
            place = min(place, 60) % len(data)
            data[place : place + 4] = draw(st.binary(min_size=4, max_size=4))
        if not data:
            break
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=mutated())
def test_whatever_the_bytes_it_is_pixels_or_an_image_error(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.getbasetemp() / "mutated")
    Path(path).write_bytes(data)
    size = None
    with contextlib.suppress(ImageError):
        size = probe(path)
    try:
        pixels, full = decode(path, (20, 20))
    except ImageError:
        return
    # What can be decoded has been announced, with the same size.
    assert size == full
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.flags.c_contiguous
    if np.prod(full) < 64 * 48 * 4:
        assert decode(path)[0].shape == (full[1], full[0], 3)


def test_truncated_pictures_are_refused_whatever_other_software_has_switched_on(
    stored: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    for kind in ("JPEG", "PNG"):
        data = encoded(kind)
        with pytest.raises(ImageError):
            decode(stored(data[: len(data) // 2]))
