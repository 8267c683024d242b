"""What tests have worker processes do. Workers import this module, so it is light."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.processes.pool import installed


def double(value: int) -> int:
    return 2 * value


def slowly_double(value: int) -> int:
    time.sleep(0.01)
    return 2 * value


def process(_: Any = None) -> int:
    return os.getpid()


def surroundings() -> dict[str, Any]:
    import cv2

    return {
        "heavy": sorted({"mxnet", "gluoncv"} & set(sys.modules)),
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "cv2": cv2.getNumThreads(),
        "omp": os.environ["OMP_NUM_THREADS"],
        "path": sys.path,
        "masked": {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])},
    }


class Refusal(Exception):
    def __init__(self, value: int, reason: str) -> None:
        super().__init__(value, reason)
        self.value = value


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("held by a lock")
        self.lock = threading.Lock()


def refuse(value: int) -> int:
    if value == 3:
        raise Refusal(value, "it is three")
    return value


def hold() -> None:
    raise Unpicklable


def slow(seconds: float, mark: str | None = None) -> float:
    if mark:
        Path(mark).write_text(str(os.getpid()))
    time.sleep(seconds)
    return seconds


def hold_the_interpreter(mark: str) -> int:
    """Busy in native code that lets no other thread of the process run."""
    Path(mark).write_text(str(os.getpid()))
    return sum(range(10**12))


def wait_once(mark: str, value: int) -> int:
    """Wait for ever for something, but not a second time."""
    path = Path(mark)
    if not path.exists():
        path.write_text("")
        threading.Event().wait()
    return value


def busy(seconds: float) -> None:
    """Compute for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def append(path: str, value: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"{value}\n")
    return value


def die_once(mark: str, value: int) -> int:
    """Die as from a lack of memory, but not a second time."""
    path = Path(mark)
    if not path.exists():
        path.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


def build_counter(descriptors: Sequence[int], mark: str, value: int) -> dict[str, Any]:
    """Something to install: says in a file that it was made, and holds the text behind the descriptors."""
    texts = []
    for descriptor in descriptors:
        texts.append(os.pread(descriptor, 100, 0).decode())
        os.close(descriptor)
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\n")
    return {"value": value, "texts": texts}


def look(key: int) -> Any:
    time.sleep(0.01)  # so that every worker comes to its turn
    return installed(key), os.getpid()


class Numbers:
    """A transform that reads no images: rows that tell which sample they are of, and random numbers."""

    def layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        return {
            "image": ((shape[1], shape[0], 3), "uint8"),
            "label": ((), "int32"),
            "annotation": ((2, 5), "float32"),
            "noise": ((3,), "float64"),
            "drawn": ((1,), "int64"),
        }

    def __call__(self, sample: Any, shape: Any, rng: np.random.Generator, draw: Any, out: Any) -> None:
        number = int(Path(sample.image).stem)
        out["image"][...] = number % 251
        out["label"][...] = number
        out["annotation"][...] = sample.annotation
        out["noise"][...] = rng.random(3)
        out["drawn"][...] = int(Path(draw().image).stem)


class Negatives(Numbers):
    """Other arrays, of the same samples."""

    def layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"image": ((shape[1], shape[0], 3), "uint8"), "label": ((), "int32")}

    def __call__(self, sample: Any, shape: Any, rng: np.random.Generator, draw: Any, out: Any) -> None:
        out["image"][...] = 0
        out["label"][...] = -int(Path(sample.image).stem)


class Pictures:
    """A transform that decodes; with `partner` also another image, as a mosaic does."""

    def __init__(self, partner: bool = False) -> None:
        self.partner = partner

    def layout(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"image": ((shape[1], shape[0], 3), "uint8"), "noise": ((1,), "float64")}

    def __call__(self, sample: Any, shape: Any, rng: np.random.Generator, draw: Any, out: Any) -> None:
        import cv2

        from common.images.decoding import decode

        out["noise"][...] = rng.random()
        pixels, _ = decode(sample.image, shape)
        if self.partner:
            decode(draw().image, shape)
        cv2.resize(pixels, shape, dst=out["image"])


class Slow(Numbers):
    """Takes its time, so that work is still under way when an epoch is left. diary: notes what it has begun."""

    def __init__(self, diary: str = os.devnull) -> None:
        self.diary = diary

    def __call__(self, sample: Any, shape: Any, rng: np.random.Generator, draw: Any, out: Any) -> None:
        with open(self.diary, "a") as file:
            file.write(f"{Path(sample.image).stem}\n")
        time.sleep(0.005)
        super().__call__(sample, shape, rng, draw, out)


class Broken(Numbers):
    """Has a defect that no image is to blame for."""

    def __call__(self, sample: Any, shape: Any, rng: np.random.Generator, draw: Any, out: Any) -> None:
        raise KeyError("boxes")
