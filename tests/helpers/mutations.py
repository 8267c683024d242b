"""Readers of files, given mutations of valid ones under limits of memory and time: a program of its own.

    python -m tests.helpers.mutations READER COUNT SEED FOLDER

Case n of a run has the seed SEED + n, which is printed before it is read; to see one again: its seed, and COUNT 1.
The exit status is 0 if every case was read or refused as the reader promises.
"""

from __future__ import annotations

import io
import os
import random
import re
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classification.annotations import ClassAnnotations
from common.config.reading import read_configuration
from common.container import write_container
from common.data import scan_cache
from common.data.problems import BadSample
from common.engine.parameter_file import check_parameter_file, write_parameter_file
from common.errors import CheckpointError, ConfigurationError, DataError, ModelError, PretrainedError
from common.images.decoding import ImageError, decode, probe
from common.trained import read_card
from common.training.checkpoint import read_checkpoint
from detect.annotations import DetectionAnnotations
from detect.config import YOLOv3Config
from landmark.annotations import LandmarkAnnotations
from tests.helpers.label_trees import coco, images, labelme, opened, records, text, voc

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 1 << 30
"""Bytes that a reader may take beside what is there before."""
SECONDS = 5
"""Time for a case."""

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
_PIECES = (
    b"", b"\0", b"\n", b",", b"[", b"]", b"{", b"}", b'"', b"\\", b"-", b"1e999", b"NaN", b"null", b"true", b"\xff\xd8",
    b"\xff\xda", b"\xff\xd9", b"\x80\x04", b"<a>", b"</a>", b"&x;", b"\xef\xbc\x8c", b"\xcc\x80" * 2000, b"9" * 5000,
    b"[" * 3000, b"(" * 3000, b"0,1,1,9,9\n" * 2000, b'{"a":' * 2000, b"h\0h\0\x86\x94" * 50, b"]a" * 2000,
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to six changes of bytes, spans, numbers and pieces of syntax."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(changed))
        length = min(rng.choice((1, 2, 4, 16, 200)), len(changed) - at)
        how = rng.randrange(9)
        if how == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del changed[at : at + length]
        elif how == 2:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50, 1000))
        elif how == 3:
            changed[at : at + length] = rng.choice(_PIECES)
        elif how == 4:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            changed[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif how == 5:
            changed[at : at + length] = rng.randbytes(length)
        elif how == 6 and rng.random() < 0.3:
            del changed[at:]
        elif how == 7:  # a number as text becomes another
            found = list(re.finditer(rb"-?\d+(\.\d+)?", changed))
            if found:
                number = rng.choice(found)
                changed[number.start() : number.end()] = rng.choice(
                    (b"0", b"-1", b"1e400", b"9" * 400, b"18446744073709551616", b'"1"', b"[]", b"{}", b"1.5")
                )
        else:
            other = rng.randint(0, len(changed))
            changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


def with_checksum(data: bytes, rng: random.Random) -> bytes:
    """Mostly a container whose length of the header and whose checksum fit what has become of the rest."""
    if rng.random() < 0.8 and len(data) > 16:
        end = data.rfind(b"}", 0, len(data))
        if rng.random() < 0.5 and end > 8:
            data = struct.pack("<Q", len(data[: end + 1].rstrip()) - 8) + data[8:]
        data = data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))
    return data


def _state() -> dict[str, Any]:
    """As much of a training state as there are kinds of values in one."""
    arrays = {f"{name}.weight": np.arange(6, dtype=np.float32).reshape(2, 3) for name in "abc"}
    return {
        "format": "visualtl-checkpoint", "version": 2, "task": "tiny", "classes": ["猫", "dog"], "model": {"a": None},
        "configuration": {"train": {"lr": 0.1}}, "parameters": arrays, "companions": {}, "epoch": 3, "skipped": 0,
        "average": {"updates": 3, "trained": dict(arrays), "statistics": {}}, "loaded": False, "stop_reason": None,
        "optimizer": {"num_update": 3, "counts": {"a": 1}, "states": {"a": [np.ones(2), None]}, "m_schedule": 1.0,
                      "rate_before": 0.0, "loss_scale": {"value": 1.0, "steps": 0}, "skipped_in_a_row": 0},
        "multipliers": {"a.weight": [1.0, 0.1]}, "hooks": {"EarlyStopping": {"best": 0.5, "best_epoch": 1}},
        "files": "x", "metric": {"name": "mAP", "value": float("nan")},
    }  # fmt: skip


Case = tuple[
    list[bytes], Callable[[bytes, random.Random], bytes], str, Callable[[Path], object], tuple[type, ...]
]


def _checkpoint(folder: Path) -> Case:
    write_container(folder / "valid", _state())
    seed = [(folder / "valid").read_bytes()]
    return (
        seed,
        with_checksum,
        "best_checkpoint.pkl",
        lambda path: read_checkpoint(path, "tiny"),
        (CheckpointError,),
    )


def _pickle(folder: Path) -> Case:
    seed = [(ROOT / "tests" / "data" / "checkpoints" / "1.2.0.pkl").read_bytes()]
    return (
        seed,
        as_it_is,
        "best_checkpoint.pkl",
        lambda path: read_checkpoint(path, "tiny"),
        (CheckpointError,),
    )


def as_it_is(data: bytes, rng: random.Random) -> bytes:
    """What a mutation made."""
    return data


def _cache(folder: Path) -> Case:
    images(folder, "a.jpg", "b.jpg", "c.png")
    paths = [str(folder / name) for name in ("a.jpg", "b.jpg", "c.png")]
    boxes = np.array([[0, 1, 2, 9, 9], [1, 0, 0, 5, 5]], np.float32)
    known = [scan_cache.Known(40, 30, 1 << 63, [boxes[:count]], []) for count in range(len(paths))]
    for path in paths:
        os.utime(path, (1, 1))
    scan_cache.SETTLED_NS = -(10**12)
    annotate = DetectionAnnotations(None)
    cache = scan_cache.ScanCache(folder / "cache", folder, annotate, None)
    cache.look_up(paths, paths)
    cache.store(paths, known)
    seed = [(folder / "cache").read_bytes()]

    def read(path: Path) -> object:
        return scan_cache.ScanCache(path, folder, annotate, None).look_up(paths, paths)

    return seed, with_checksum, "cache", read, ()


def _configuration(folder: Path) -> Case:
    seeds = [
        path.read_bytes() for path in sorted((ROOT / "configs").glob("*.json")) if path.suffixes == [".json"]
    ]
    return (
        seeds,
        as_it_is,
        "job.json",
        lambda path: read_configuration(YOLOv3Config, path),
        (ConfigurationError,),
    )


def _text(folder: Path) -> Case:
    images(folder, "a.jpg")
    readers = (
        DetectionAnnotations(3),
        ClassAnnotations((folder.name,), (str(folder.parent),)),
        LandmarkAnnotations(2),
    )
    seeds = ["0,1,2,30,20\n2,0,0,40,30\n", "-1,-1,-1,-1,-1\n", "3,4\n5.5 6\n", "０，１，２，３０，２０\r\n"]

    def read(path: Path) -> None:
        for reader in readers:
            try:
                reader(str(folder / "a.jpg"), 40, 30)  # type: ignore[operator]
            except BadSample as bad:
                check(bad, 2000)

    return [seed.encode() for seed in seeds], as_it_is, "a.txt", read, (DataError,)


def _format(name: str, file: str, content: Any) -> Callable[[Path], Case]:
    """A set of one image in a format of others."""

    def case(folder: Path) -> Case:
        images(folder, "a.jpg")
        text(folder / file, content)
        seed = [(folder / file).read_bytes()]

        def read(path: Path) -> None:
            records(opened(folder, format_name=name))

        return seed, as_it_is, file, read, (DataError, BadSample)

    return case


def _image(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
    seeds = []
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {})):
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        seeds.append(stream.getvalue())

    def read(path: Path) -> None:
        probe(str(path))
        decode(str(path), (8, 8))

    return seeds, as_it_is, "a.jpg", read, (ImageError,)


def _parameters(folder: Path) -> Case:
    write_parameter_file(
        folder / "a.params", {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}
    )
    seed = [(folder / "a.params").read_bytes()]
    return seed, as_it_is, "a.params", check_parameter_file, (PretrainedError,)


def _card(folder: Path) -> Case:
    content = {
        "task": "yolov3", "classes": ["cat", "dog"], "input": {"width": 64, "height": 64}, "symbol": "a-symbol.json",
        "params": "a-0000.params", "resize": {"method": "stretch"}, "best_thresh": 0.3, "score_thresh": 0.3,
        "flip_test": {"symbol": "a-flip.json"}, "outputs": ["ids", "scores", "boxes"], "iou_thresh": 0.5,
    }  # fmt: skip
    text(folder / "model.json", content)

    def read(path: Path) -> None:
        card = read_card(path)
        for look in (lambda: card.graph, lambda: card.file("params"), card.onnx_file):
            try:
                look()
            except ModelError as error:
                check(error, 2000)
        assert card.score is not None

    return [(folder / "model.json").read_bytes()], as_it_is, "model.json", read, (ModelError,)


_BOX = {"label": "dog", "shape_type": "rectangle", "points": [[1, 2], [30, 20]]}
_ANNOTATION = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 20, 10], "area": 200, "iscrowd": 0}
READERS: dict[str, Callable[[Path], Case]] = {
    "checkpoint": _checkpoint,
    "checkpoint of 1.2.0": _pickle,
    "cache": _cache,
    "configuration": _configuration,
    "text": _text,
    "coco": _format("coco", "_annotations.coco.json", coco(["a.jpg"], [_ANNOTATION], {7: "dog"})),
    "voc": _format("voc", "a.xml", voc(("dog", 1, 2, 30, 20), ("cat", 5, 5, 9, 9, 1))),
    "labelme": _format("labelme", "a.json", labelme(_BOX)),
    "yolo": _format("yolo", "a.txt", "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n"),
    "image": _image,
    "parameters": _parameters,
    "model.json": _card,
}


def main(name: str, count: int, seed: int, folder: Path) -> None:
    """Read `count` mutations of a valid file; ends with the seed of the first that was read in another way."""
    import logging

    logging.getLogger("visualtl").setLevel(logging.CRITICAL)
    seeds, finish, file, read, allowed = READERS[name](folder)
    path = folder / file
    resource.setrlimit(resource.RLIMIT_AS, (_in_use() + MEMORY,) * 2)

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    for case in range(seed, seed + count):
        rng = random.Random(case)
        data = finish(mutated(rng.choice(seeds), rng), rng)
        path.write_bytes(data)
        print(f"{name}: seed {case}", flush=True)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            read(path)
        except allowed as error:
            check(error, 20_000)
        signal.setitimer(signal.ITIMER_REAL, 0)


def check(error: BaseException, longest: int) -> None:
    """Fail unless an error says something, in lines that a log can hold."""
    told = str(error)
    assert 0 < len(told) < longest
    assert all(line.isprintable() for line in told.split("\n")), told


def _in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
