"""Images per second of loading for classification at 224 x 224: ours beside Gluon's and PyTorch's DataLoader.

    python benchmarks/loader.py [--images 2000] [--batch 32] [--repeats 3]
    python benchmarks/loader.py --detail [FOLDER] [--size 416] [--images 400] [--batch 16]

All sides take random crops of the same JPEG images of 640x480 (made here), mirror and colour them, with as many
workers as there are processors, each side in a process of its own, in turn. The first epoch holds the start of the
workers; the limit is libjpeg-turbo decoding alone on all processors. PyTorch decodes with Pillow, as torchvision's
datasets do.

--detail: what loading costs beside decoding, step by step, on the JPEG images below FOLDER. Every figure is the
median of several rounds, and the rounds of all rows take turns, so that a machine that is busy for a while slows all
alike.
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

from benchmarks import table
from classification.transforms import CropTransform
from common.data.samples import Sample
from common.images.decoding import decode, probe
from common.loading.loader import Layout, Loader, Shape
from common.processes.pool import WorkerPool

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
class Work:
    """Work that says how many images it did, the processes that do it, and what its rounds took."""

    work: Callable[[], int]
    processes: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round: milliseconds per image, by the clock, and of processor time in all processes together."""
        began, used = time.perf_counter(), self._used()
        count = self.work()
        self.wall.append((time.perf_counter() - began) * 1000 / count)
        self.cpu.append((self._used() - used) * 1000 / count)

    def _used(self) -> float:
        others = (Path(f"/proc/{process}/schedstat").read_text().split()[0] for process in self.processes)
        return time.process_time() + sum(int(nanoseconds) for nanoseconds in others) / 1e9


def class_folders(folder: Path, count: int) -> None:
    """Two classes of `count` images altogether; some are further names of the same file."""
    made = folder / "made"
    made.mkdir()
    make_images(made, min(count, 200))
    sources = sorted(made.iterdir())
    for number in range(count):
        target = folder / "images" / "ab"[number % 2] / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(sources[number % len(sources)])


def ours(options: argparse.Namespace) -> list[float]:
    """Images per second of two epochs."""
    pool = WorkerPool(options.workers)
    samples = []
    for path in map(str, sorted(options.folder.glob("*/*.jpg"))):
        width, height = probe(path)
        samples.append(Sample(path, width, height, np.array([0], np.float32)))
    shape = options.size, options.size

    def shapes(epoch: int, batch: int) -> Shape:
        return shape

    loader = Loader(samples, CropTransform(), pool, batch_size=options.batch, shapes=shapes, training=True)
    rates = []
    for epoch in range(2):
        began = time.perf_counter()
        count = sum(batch.count for batch in loader.epoch(epoch))
        rates.append(count / (time.perf_counter() - began))
    return rates


def gluon(options: argparse.Namespace) -> list[float]:
    """The same by Gluon, with the transforms of GluonCV's script for ImageNet."""
    from mxnet.gluon.data import DataLoader
    from mxnet.gluon.data.vision import ImageFolderDataset, transforms

    composed = transforms.Compose(
        [
            transforms.RandomResizedCrop(options.size, scale=(0.25, 1.0)),
            transforms.RandomFlipLeftRight(),
            transforms.RandomColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomLighting(0.1),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = ImageFolderDataset(str(options.folder)).transform_first(composed)
    began = time.perf_counter()
    loader = DataLoader(dataset, options.batch, shuffle=True, num_workers=options.workers, last_batch="keep")
    rates = []
    for _ in range(2):
        count = sum(len(labels) for _, labels in loader)
        rates.append(count / (time.perf_counter() - began))
        began = time.perf_counter()
    return rates


def decoding(options: argparse.Namespace) -> list[float]:
    """Images per second that libjpeg-turbo decodes on all processors, from what one takes for it."""
    contents = [path.read_bytes() for path in sorted(options.folder.glob("*/*.jpg"))[:200]]
    began = time.process_time()
    for content in contents:
        simplejpeg.decode_jpeg(content, "RGB")
    return [len(os.sched_getaffinity(0)) * len(contents) / (time.process_time() - began)] * 2


def compare(options: argparse.Namespace) -> list[table.Row]:
    """Run all sides in turns."""
    cores = len(os.sched_getaffinity(0))
    names = ["decoding", "gluon", *[f"ours {count}" for count in range(1, cores + 1)]]
    rates_of: dict[str, list[list[float]]] = {name: [] for name in [*names, "torch"]}
    with tempfile.TemporaryDirectory() as folder:
        class_folders(Path(folder), options.images)
        images = Path(folder) / "images"
        common = ("--batch", options.batch, "--size", options.size)
        for _ in range(options.repeats):
            for name in names:
                which, _, workers = name.partition(" ")
                figures = table.side("loader.py", which, images, *common, "--workers", workers or cores)
                rates_of[name].append(figures["rates"])
            if table.peers_installed():
                arguments = ("--data", images, *common, "--workers", cores)
                figures = table.side("torch_side.py", "load", *arguments, python=table.PEERS)
                rates_of["torch"].append(figures["rates"])

    def epoch(name: str, number: int) -> list[float]:
        return [rates[number] for rates in rates_of[name]]

    rows = []
    for number, label in enumerate(("first", "second")):
        what = f"loading {options.images} images, {label} epoch, {cores} workers, images/s"
        for peer, title, aim in (
            ("gluon", "Gluon DataLoader", "3x"),
            ("torch", "PyTorch DataLoader", "first place"),
        ):
            title = title if rates_of[peer] else f"{title}: {table.NO_PEERS}"
            rows.append(
                table.compare(
                    what,
                    epoch(f"ours {cores}", number),
                    title,
                    epoch(peer, number),
                    limit="decoding alone",
                    bounds=epoch("decoding", number),
                    reach=aim,
                    rate=True,
                )
            )
    if cores > 1:
        what = f"loading, second epoch, {cores} workers, images/s"
        rows.append(
            table.compare(
                what,
                epoch(f"ours {cores}", 1),
                "ours, 1 worker",
                epoch("ours 1", 1),
                reach=f"{cores}x",
                rate=True,
            )
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = table.parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--detail", action="store_true")
    parser.add_argument("--size", type=int)
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    defaults = {"size": 416, "images": 400, "batch": 16} if options.detail else {}
    for name, value in ({"size": 224, "images": 2000, "batch": 32} | defaults).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.quick:
        options.images, options.repeats = 64, 1
    if options.side:
        table.tell(rates={"ours": ours, "gluon": gluon, "decoding": decoding}[options.side](options))
    if not options.detail:
        table.report(compare(options), options)
        return 0
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_images(folder)
        paths = [str(path) for path in sorted(folder.rglob("*.jp*g"))][: options.images]
        if not paths:
            parser.error(f"{folder} holds no .jpg or .jpeg")
        detail(paths, (options.size, options.size), options.batch, cores, stack)
    return 0


def detail(paths: list[str], shape: Shape, batch: int, cores: int, stack: ExitStack) -> None:
    """Measure all rows in turns, and print them."""
    cv2.setNumThreads(1)
    sizes = [probe(path) for path in paths]
    nothing = np.empty((0, 5), np.float32)
    samples = [Sample(path, *size, nothing) for path, size in zip(paths, sizes, strict=True)]
    contents = [Path(path).read_bytes() for path in paths]
    buffer = {"image": np.empty((shape[1], shape[0], 3), np.uint8)}
    rng = np.random.default_rng(0)

    def each(work: Callable[[Sample], object]) -> Work:
        def run() -> int:
            for sample in samples:
                work(sample)
            return len(samples)

        return Work(run)

    def decode_alone() -> int:
        for content in contents:
            simplejpeg.decode_jpeg(content, "RGB")
        return len(contents)

    def transformed(transform: Resize) -> Work:
        return each(lambda sample: transform(sample, shape, rng, lambda: sample, buffer))

    def loaded(workers: int, transform: Resize) -> Work:
        pool = stack.enter_context(WorkerPool(workers))
        loader = stack.enter_context(
            Loader(
                samples, transform, pool, batch_size=batch, shapes=lambda epoch, number: shape, training=True
            )
        )
        return Work(lambda: sum(len(made.indices) for made in loader.epoch(0)), pool.processes)

    whole, reduced = Resize(False), Resize(True)
    rows = {
        "probe": each(lambda sample: probe(sample.image)),
        ALONE: Work(decode_alone),
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
