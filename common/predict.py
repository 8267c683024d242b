"""`python3 -m common.predict MODEL IMAGES... --out OUT`: a trained model on images, folders, patterns and videos."""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import itertools
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.commands import (
    add_computing,
    add_model,
    add_out,
    carry_out,
    command_parser,
    named_path,
    parse_gpus,
    workers,
)
from common.convert import WRITERS
from common.data.formats.base import Place
from common.data.formats.recognise import open_set
from common.data.formats.writing import Target
from common.data.problems import BadSample
from common.data.samples import Sample
from common.errors import ConfigurationError, DataError
from common.evaluation.pictures import save_picture
from common.files import json_line, new_folder
from common.images.decoding import ImageError, printable, probe
from common.inputs import (
    Inputs,
    InputTransform,
    box_region,
    find_inputs,
    frame_count,
    frames,
    free_folder,
    relative_name,
)
from common.language import said
from common.loading.loader import Batch, Loader
from common.outputs import Embeddings, Labels
from common.predictor import Compute, Decoder, whole
from common.processes.pool import WorkerPool
from common.reporting.log import bar
from common.trained import MODEL_CARD, Card, open_compute, read_card

RESULT = "predictions.json"
# Pictures that are waiting to be drawn, and images of a gallery that a row names.
_PICTURES_AHEAD, _NEAREST = 64, 5
# So many images are laid before the workers at a time: of those that come later, and of rows that are written, nothing
# but names of files is kept.
_AT_A_TIME = 1024
# A first batch of more images than these is not waited for: the first image goes alone.
_SOON = 4

Row = tuple[Sample, dict[str, Any], np.ndarray | None, np.ndarray | None]
"""A sample of known size, what is said of it, the prediction and, of a frame, its pixels."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict as the command line says; the exit status."""
    return carry_out(predict, _parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "predict",
        "Predict images and videos with a trained model. OUT/predictions.json has a row for each.",
        "用训练好的模型预测图像和视频，结果逐项写入 OUT/predictions.json。",
    )
    add_model(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help=said("files, folders, patterns, videos", "文件、文件夹、通配符或视频"),
    )
    add_out(parser, "--out")
    parser.add_argument(
        "--score",
        type=float,
        help=said(
            "least score of an object (default: the model's best threshold, else its score_thresh)",
            "目标的最低得分（默认：模型的最佳阈值，否则为其 score_thresh）",
        ),
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help=said(
            "OUT/pictures: the images with what is predicted drawn in", "OUT/pictures：画上预测结果的图像"
        ),
    )
    parser.add_argument(
        "--as",
        dest="format",
        choices=list(WRITERS),
        help=said(
            "OUT/labels: predictions as labels, to correct by hand",
            "OUT/labels：以标注文件的形式保存预测结果，便于人工修正",
        ),
    )
    parser.add_argument(
        "--boxes",
        type=named_path,
        metavar="FILE",
        help=said(
            "annotations in any format, whose boxes are predicted one by one",
            "任意格式的标注，逐个预测其中的框",
        ),
    )
    parser.add_argument(
        "--gallery",
        metavar="FOLDER",
        help=said(
            "re-identification: images among which the nearest are looked for",
            "重识别：在这些图像中查找最相近的",
        ),
    )
    add_computing(parser)
    return parser


def predict(options: argparse.Namespace) -> None:
    """Predict, and write OUT. Raises JobError."""
    count = workers(options)
    card = read_card(options.model)
    _check(options, card)
    inputs = find_inputs(options.images)
    free_folder(options.out, options.images)
    if inputs.videos and (options.format or options.boxes):
        raise ConfigurationError("--as and --boxes: they are for image files; leave the videos out")
    with ExitStack() as stack:
        # Workers start while the model is loaded.
        pool = stack.enter_context(WorkerPool(count))
        run = _Run(options, card, inputs, pool)
        run.load()
        folder = stack.enter_context(new_folder(options.out))
        good, bad = run.write(folder)
    print(f"{good} predicted, {bad} could not be read: {options.out / RESULT}")


def _check(options: argparse.Namespace, card: Card) -> None:
    kind = card.kind.does
    if options.gallery and kind != "reid":
        raise ConfigurationError(f"--gallery: the model is one of {kind}; a gallery is for re-identification")
    if options.boxes and kind not in ("classification", "reid"):
        raise ConfigurationError(f"--boxes: the model is one of {kind}, which takes whole images")
    if options.format and kind not in WRITERS[options.format].TASKS:
        usable = ", ".join(name for name, module in WRITERS.items() if kind in module.TASKS)
        raise ConfigurationError(
            f"--as {options.format}: cannot hold {kind}; formats that can: {usable or 'none'}"
        )
    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigurationError(f"--score: {options.score:g}; 0 to 1 is expected")


@dataclass
class _Gallery:
    """Embeddings (G, D) of length 1, paths, and identities: the folders that images of a gallery lie in."""

    embeddings: np.ndarray
    images: list[str]
    identities: list[str]

    def nearest(self, embedding: np.ndarray) -> list[dict[str, Any]]:
        """The images that are most like an embedding of length 1."""
        cosines = self.embeddings @ embedding
        order = np.argsort(-cosines, kind="stable")[:_NEAREST].tolist()
        return [
            {"image": self.images[index], "identity": self.identities[index], "cosine": float(cosines[index])}
            for index in order
        ]


class _Run:
    """One use of a model: from files to rows, and from rows to what is written."""

    def __init__(self, options: argparse.Namespace, card: Card, inputs: Inputs, pool: WorkerPool) -> None:
        self._options = options
        self._card = card
        self._does = card.kind.does
        self._reading = card.reading()
        self._inputs = inputs
        self._pool = pool
        self._score = card.score if options.score is None else options.score
        self._decoder: Decoder = self._reading.decoder.counting_from(self._score)
        self._boxes = self._read_boxes() if options.boxes else None
        self._gallery: _Gallery | None = None
        self._compute: Compute

    def load(self) -> None:
        """Everything that can fail before the first image is looked at."""
        self._compute = open_compute(self._card, self._options.engine, parse_gpus(self._options.gpus))
        if self._options.gallery:
            self._gallery = self._embed(find_inputs([self._options.gallery]))

    def write(self, folder: Path) -> tuple[int, int]:
        """Write everything below `folder`. Returns how many were predicted, and how many could not be read."""
        drawn: deque[int] = deque()
        good = bad = 0
        first = ""
        images = self._inputs.images if self._boxes is None else self._boxes
        total = len(images) + sum(max(frame_count(path), 1) for path in self._inputs.videos)
        with ExitStack() as stack:
            file = stack.enter_context(open(folder / RESULT, "w", encoding="utf-8"))
            advance = stack.enter_context(bar(total, "predicting"))
            labels = embeddings = None
            if self._options.format:
                labels = Labels(stack.enter_context(_spool(folder)), self._reading.labels, self._inputs.base)
            if self._does == "reid":
                embeddings = Embeddings(
                    stack.enter_context(_spool(folder)), stack.enter_context(_spool(folder))
                )
            head = {
                "task": self._does,
                "file": str(self._card.onnx or self._card.folder / MODEL_CARD),
                "classes": self._card.classes,
                "score_thresh": self._score,
            }
            file.write(f'{{"model": {json_line(head)},\n "Result": [')
            for number, (sample, row, prediction, pixels) in enumerate(self._rows(advance)):
                file.write(("," if number else "") + "\n  " + json_line(row))
                if prediction is None:
                    bad += 1
                    first = first or f"{printable(sample.image)}: {row['error']}"
                    continue
                good += 1
                if embeddings is not None:
                    embeddings.add(sample.image, prediction)
                if self._options.pictures:
                    self._draw(folder / "pictures", sample, row, pixels, drawn)
                if labels is not None:
                    labels.add(sample, row)
            file.write("\n ]}\n")
            while drawn:
                self._pool.result(drawn.popleft())
            if not good:
                raise DataError(f"nothing could be predicted: {first}")
            if embeddings is not None:
                embeddings.save(folder / "embeddings.npz")
            if labels is not None:
                self._write_labels(folder / "labels", labels)
        return good, bad

    def _rows(self, advance: Callable[[int], object]) -> Iterator[Row]:
        if self._boxes is not None:
            yield from self._part_rows(self._boxes, self._options.batch, advance)
        else:
            yield from self._image_rows(self._inputs.images, advance)
        for path in self._inputs.videos:
            yield from self._frame_rows(path, advance)

    def _image_rows(self, paths: Sequence[str], advance: Callable[[int], object]) -> Iterator[Row]:
        """The rows of images, part by part."""
        batch = min(self._options.batch, len(paths))
        begins = [0, *range(1 if batch > _SOON else _AT_A_TIME, len(paths), _AT_A_TIME), len(paths)]
        for begin, end in itertools.pairwise(begins):
            part = [_unread(path) for path in paths[begin:end]]
            yield from self._part_rows(part, min(batch, len(part)) if begin == 0 else batch, advance)

    def _part_rows(
        self, samples: Sequence[Sample], batch_size: int, advance: Callable[[int], object]
    ) -> Iterator[Row]:
        if not samples:
            return
        region = whole if self._boxes is None else box_region
        with Loader(
            samples,
            InputTransform(self._card.resize, region),
            self._pool,
            batch_size=batch_size,
            shapes=lambda epoch, batch: self._card.shape,
        ) as loader:
            batches = loader.epoch(0)
            while (batch := _next(batches, loader)) is not None:
                outputs = self._compute(batch.arrays["image"])
                predictions = self._decoder.predictions(outputs, batch.arrays["matrix"], batch.shape)
                reasons = {problem.file: problem.reason for problem in loader.problems if batch.failed}
                for place in range(batch.count):
                    sample = samples[batch.number * loader.batch_size + place]
                    if batch.indices[place] < 0:
                        yield sample, {"image": sample.image, "error": reasons[sample.image]}, None, None
                        continue
                    width, height = batch.arrays["size"][place].tolist()
                    yield self._row(self._sized(sample, width, height), predictions[place])
                advance(batch.count)

    def _sized(self, sample: Sample, width: int, height: int) -> Sample:
        if self._boxes is not None:
            return Sample(sample.image, width, height, sample.annotation)
        return _whole(sample.image, width, height)

    def _frame_rows(self, path: str, advance: Callable[[int], object]) -> Iterator[Row]:
        """The rows of a video, batch by batch."""
        to_come = max(frame_count(path), 1)  # as the file says; it may have fewer, or more
        width, height = self._card.shape
        images = np.zeros((self._options.batch, height, width, 3), np.uint8)
        matrices = np.zeros((self._options.batch, 2, 3))
        counted = enumerate(frames(path))
        try:
            while part := list(itertools.islice(counted, self._options.batch)):
                for place, (_, pixels) in enumerate(part):
                    matrices[place] = self._card.resize.draw(pixels, images[place])
                predictions = self._decoder.predictions(self._compute(images), matrices, self._card.shape)
                for (number, pixels), prediction in zip(part, predictions, strict=False):
                    sample = _whole(path, pixels.shape[1], pixels.shape[0])
                    _, row, _, _ = self._row(sample, prediction)
                    yield sample, {**row, "frame": number}, prediction, pixels
                advance(min(len(part), to_come))
                to_come -= min(len(part), to_come)
        except DataError as error:
            reason = str(error).removeprefix(f"{printable(path)}: ")
            yield _unread(path), {"image": path, "error": reason}, None, None
        advance(to_come)

    def _row(self, sample: Sample, prediction: np.ndarray) -> Row:
        row = self._decoder.row(sample, prediction)
        if self._gallery is not None:
            nearest = self._gallery.nearest(prediction)
            row = {"class": nearest[0]["identity"], "score": nearest[0]["cosine"], **row, "nearest": nearest}
        return sample, row, prediction, None

    def _embed(self, inputs: Inputs) -> _Gallery:
        """The gallery: its images, and the folders they lie in as identities."""
        boxes, self._boxes = self._boxes, None
        rows = [
            (sample.image, prediction)
            for sample, _, prediction, _ in self._image_rows(inputs.images, lambda done: None)
            if prediction is not None
        ]
        self._boxes = boxes
        if not rows:
            raise DataError(f"--gallery: no image of {printable(self._options.gallery)} can be read")
        images = [image for image, _ in rows]
        return _Gallery(
            np.stack([row for _, row in rows]), images, [Path(image).parent.name for image in images]
        )

    def _read_boxes(self) -> list[Sample]:
        """The boxes of --boxes as samples, by image."""
        base = self._inputs.base
        place = Place(base, base, str(self._options.boxes.resolve()), task="detection")
        opened, _ = open_set(place)
        entries = dict(zip(map(os.path.realpath, opened.images), opened.entries, strict=True))
        samples = []
        for path in self._inputs.images:
            real = os.path.realpath(path)
            if real not in entries:
                continue
            try:
                record = opened.parse(real, entries[real], *probe(path))
            except (ImageError, BadSample):
                samples.append(_unread(path))
                continue
            boxes = [thing.box for thing in record.objects if thing.box is not None]
            samples += [Sample(path, 0, 0, np.array([-1, *box], np.float32)) for box in boxes]
        if not samples:
            raise DataError(f"--boxes: {printable(str(self._options.boxes))} has no box of any of the images")
        return samples

    def _draw(
        self, folder: Path, sample: Sample, row: dict[str, Any], pixels: np.ndarray | None, drawn: deque[int]
    ) -> None:
        """Have the picture of a row drawn by a worker."""
        name = relative_name(sample.image, self._inputs.base)
        if pixels is not None:
            name = f"{name}/{row['frame']:06d}.jpg"
        elif not name.lower().endswith((".jpg", ".jpeg")):
            name += ".jpg"
        source = sample.image if pixels is None else pixels
        drawn.append(self._pool.submit(save_picture, source, self._decoder.marks(row), str(folder / name)))
        while len(drawn) > _PICTURES_AHEAD:
            self._pool.result(drawn.popleft())

    def _write_labels(self, folder: Path, labels: Labels) -> None:
        folder.mkdir()
        classes = self._card.classes or sorted(labels.classes)
        points = [str(index) for index in range(labels.points)]
        target = Target(folder, "", self._does, classes, points, labels)
        WRITERS[self._options.format].write(target)
        for what, count in target.lost.items():
            print(f"--as {self._options.format}: left out: {count} {what}", file=sys.stderr)


def _spool(folder: Path) -> IO[bytes]:
    """A file without a name on the disk of `folder`: what is in it needs no memory, and is never left behind."""
    return tempfile.TemporaryFile(dir=folder)


def _next(batches: Iterator[Batch], loader: Loader) -> Batch | None:
    """The next batch; a set of which no image could be read ends like any other, as its rows have said so."""
    try:
        return next(batches, None)
    except DataError:
        if len(loader.problems) < len({sample.image for sample in loader.samples}):
            raise
        return None


def _unread(path: str) -> Sample:
    return _whole(path, 0, 0)


def _whole(path: str, width: int, height: int) -> Sample:
    """An image of which nothing is annotated."""
    return Sample(path, width, height, np.array([-1], np.float32))


if __name__ == "__main__":
    sys.exit(main())
