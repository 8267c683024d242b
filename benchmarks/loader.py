"""What loading costs beside decoding: python3 benchmarks/loader.py FOLDER [--size 416] [--images 400]
[--batch 16]

FOLDER holds JPEG images (sub-folders too); without it, 200 images of 640x480 are made. Every figure is the
median of several rounds, and the rounds of all rows take turns, so that a machine that is busy for a while
slows all alike.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
import simplejpeg

from common.images import decode, probe
from common.loader import Layout, Loader, Shape
from common.samples import Sample
from common.workers import WorkerPool

ROUNDS = 7
ALONE = "simplejpeg alone, from memory"
WORK = "decode + resize"


class Resize:
    """The least a transform can do: decode and stretch. reduced: decode no more pixels than that needs."""

    def __init__(self, reduced: bool) -> None:
        self.reduced = reduced

    def layout(self, shape: Shape) -> Layout:
        """An image."""
        return {"image": ((shape[1], shape[0], 3), "uint8")}

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill `out`."""
        pixels, _ = decode(sample.image, shape if self.reduced else None)
        cv2.resize(pixels, shape, dst=out["image"], interpolation=cv2.INTER_LINEAR)


def make_images(folder: Path, count: int = 200) -> None:
    """Photos cannot be made up; smooth noise with some edges takes a decoder about as long."""
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = cv2.GaussianBlur(rng.integers(0, 256, (480, 640, 3), np.uint8), (0, 0), 3)
        picture = cv2.normalize(picture, picture, 0, 255, cv2.NORM_MINMAX)
        for _ in range(20):
            x, y, side = rng.integers(0, 640), rng.integers(0, 480), rng.integers(5, 100)
            cv2.rectangle(picture, (x, y), (x + side, y + side), rng.integers(0, 256, 3).tolist(), -1)
        data = simplejpeg.encode_jpeg(picture, 92, "RGB", "420")
        (folder / f"{number:04d}.jpg").write_bytes(data)


@dataclass
class Row:
    """Work that says how many images it did, the processes that do it, and what its rounds took."""

    work: Callable[[], int]
    processes: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round: milliseconds per image, by the clock, and of processor time in all processes
        together."""
        began, used = time.perf_counter(), self._used()
        count = self.work()
        self.wall.append((time.perf_counter() - began) * 1000 / count)
        self.cpu.append((self._used() - used) * 1000 / count)

    def _used(self) -> float:
        others = (Path(f"/proc/{process}/schedstat").read_text().split()[0] for process in self.processes)
        return time.process_time() + sum(int(nanoseconds) for nanoseconds in others) / 1e9


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_images(folder)
        paths = [str(path) for path in sorted(folder.rglob("*.jp*g"))][: options.images]
        if not paths:
            parser.error(f"{folder} holds no .jpg or .jpeg")
        measure(paths, (options.size, options.size), options.batch, cores, stack)
    return 0


def measure(paths: list[str], shape: Shape, batch: int, cores: int, stack: ExitStack) -> None:
    """Measure all rows in turns, and print them."""
    cv2.setNumThreads(1)
    sizes = [probe(path) for path in paths]
    nothing = np.empty((0, 5), np.float32)
    samples = [Sample(path, *size, nothing) for path, size in zip(paths, sizes, strict=True)]
    contents = [Path(path).read_bytes() for path in paths]
    buffer = {"image": np.empty((shape[1], shape[0], 3), np.uint8)}
    rng = np.random.default_rng(0)

    def each(work: Callable[[Sample], object]) -> Row:
        def run() -> int:
            for sample in samples:
                work(sample)
            return len(samples)

        return Row(run)

    def decode_alone() -> int:
        for content in contents:
            simplejpeg.decode_jpeg(content, "RGB")
        return len(contents)

    def transformed(transform: Resize) -> Row:
        return each(lambda sample: transform(sample, shape, rng, lambda: sample, buffer))

    def loaded(workers: int, transform: Resize) -> Row:
        pool = stack.enter_context(WorkerPool(workers))
        loader = stack.enter_context(
            Loader(
                samples, transform, pool, batch_size=batch, shapes=lambda epoch, number: shape, training=True
            )
        )
        return Row(lambda: sum(len(made.indices) for made in loader.epoch(0)), pool.processes)

    whole, reduced = Resize(False), Resize(True)
    rows = {
        "probe": each(lambda sample: probe(sample.image)),
        ALONE: Row(decode_alone),
        "decode": each(lambda sample: decode(sample.image)),
        "decode, least size": each(lambda sample: decode(sample.image, shape)),
        WORK: transformed(whole),
        "decode, least size + resize": transformed(reduced),
        "loader, in this process": loaded(0, whole),
        **{f"loader, workers: {n}": loaded(n, whole) for n in range(1, cores + 1)},
        f"loader, workers: {cores}, least size": loaded(cores, reduced),
    }
    for row in rows.values():
        row.work()
    for _ in range(ROUNDS):
        for row in rows.values():
            row.measure()
    width, height = np.median(sizes, axis=0).astype(int)
    print(f"{len(paths)} images of {width}x{height} (median) to {shape[0]}x{shape[1]}", end=", ")
    print(f"batches of {batch}, {cores} cores")
    print(f"{'':32}{'ms CPU/image':>14}{'x decoding':>12}{'us CPU more':>13}{'images/s':>10}")
    for name, row in rows.items():
        ratio = float(np.median(np.divide(row.cpu, rows[ALONE].cpu)))
        more = float(np.median(np.subtract(row.cpu, rows[WORK].cpu))) * 1000
        beside = f"{more:13.0f}" if name.startswith("loader") and "least" not in name else " " * 13
        middle = float(np.median(row.cpu))
        print(f"{name:32}{middle:14.3f}{ratio:12.2f}{beside}{1000 / float(np.median(row.wall)):10.0f}")
    print(f"us CPU more: than {WORK!r} alone takes")


if __name__ == "__main__":
    # Under this name workers find Resize, as they do not run the script.
    sys.exit(importlib.import_module("benchmarks.loader").main())
