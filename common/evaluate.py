"""`python3 -m common.evaluate MODEL --data FOLDER --out OUT`: how good a trained model is on a set with annotations."""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.commands import add_computing, carry_out, named_path, parse_gpus, workers
from common.data.figures import listed
from common.data.formats.base import Label, Place
from common.data.formats.classes import settle
from common.data.formats.recognise import READERS, choose
from common.data.labels import with_class_ids
from common.data.listing import Listing
from common.data.problems import FolderReport
from common.data.samples import Labels, Sample, read_folder
from common.errors import ConfigurationError, DataError
from common.evaluation.markup import Words
from common.evaluation.report import Training, report
from common.files import new_folder, replacing, spelled_out, write_json
from common.images.decoding import printable
from common.inputs import free_folder
from common.predictor import Predictor
from common.processes.pool import WorkerPool
from common.reporting.log import bar
from common.trained import MODEL_CARD, Card, Reading, open_compute, open_predictor, read_card

log = logging.getLogger("visualtl")

EVALUATION, REPORT = "evaluation.json", "report.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; the exit status."""
    return carry_out(evaluate, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m common.evaluate",
        description="Hold a trained model against annotations: OUT/evaluation.json and OUT/report.html.",
    )
    parser.add_argument(
        "model", type=named_path, metavar="MODEL", help="a job's log_dir, its model.json, or an .onnx file"
    )
    parser.add_argument(
        "--data", type=named_path, required=True, metavar="FOLDER", help="a set with its annotations"
    )
    parser.add_argument(
        "--out",
        type=named_path,
        required=True,
        help="a folder that does not exist or is empty; it appears whole or not at all",
    )
    parser.add_argument(
        "--gallery", type=named_path, metavar="FOLDER", help="re-identification: what --data is looked for in"
    )
    parser.add_argument(
        "--format", default="auto", choices=["auto", *READERS], help="of the annotations (default: found out)"
    )
    parser.add_argument(
        "--annotations",
        type=named_path,
        metavar="FILE",
        help="file or folder of the annotations where they lie elsewhere",
    )
    parser.add_argument(
        "--score", type=float, help="score from which detections are counted (default: the best of the set)"
    )
    add_computing(parser)
    return parser


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate, and write OUT. Raises JobError."""
    count = workers(options)
    card = read_card(options.model)
    if not options.data.is_dir():
        raise ConfigurationError(f"--data: {printable(str(options.data))} is not a folder")
    free_folder(options.out, [str(options.data)])
    reading = card.reading()
    if options.gallery is not None and not options.gallery.is_dir():
        raise ConfigurationError(f"--gallery: {printable(str(options.gallery))} is not a folder")
    if options.gallery is not None and card.kind.does != "reid":
        raise ConfigurationError(
            f"--gallery: the model is one of {card.kind.does}; it is for re-identification"
        )
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(count))
        samples, folder_report = _read(spelled_out(options.data), options, card, reading, pool)
        gallery, _ = _read(options.gallery, options, card, reading, pool) if options.gallery else ([], None)
        compute = open_compute(card, options.engine, parse_gpus(options.gpus))
        predictor = open_predictor(card, compute, reading)
        pairs = _predicted(predictor, samples, pool, options.batch, folder_report)
        name = options.data.resolve().name
        if options.gallery:
            others = _predicted(predictor, gallery, pool, options.batch, None)
            document = reading.evaluator.search(*pairs, *others, name)
        else:
            document = reading.evaluator.document(*pairs, name, options.score)
        folder = stack.enter_context(new_folder(options.out))
        write_json(folder / EVALUATION, document)
        told = Training(_facts(card, options), data={name: folder_report.as_json()}, sets=[name])
        with replacing(folder / REPORT, "w") as file:
            file.write(report(f"{options.model.name}: {name}", [document], told))
    figures = document["figures"]
    told_figures = ", ".join(
        f"{key}={value:.4f}" for key, value in figures.items() if isinstance(value, float)
    )
    print(f"{told_figures}\n{options.out / EVALUATION}\n{options.out / REPORT}")


def _read(
    data: Path, options: argparse.Namespace, card: Card, reading: Reading, pool: WorkerPool
) -> tuple[list[Sample], FolderReport]:
    """The samples of a folder with annotations in any format, their classes by the model's ids."""
    listing = Listing(str(data))
    annotate, names = reading.annotations(listing)
    place = _place(data, options.annotations, card.kind.does)
    kind, reason = choose(place, listing, options.format)
    log.info("%s: the labels are %s: %s", printable(str(data)), kind, reason)
    if kind == "txt":
        return read_folder(data, annotate, pool, lambda share: None, listing=listing, names=names)
    annotated, labels = READERS[kind].read(place, listing), Labels()
    samples, folder_report = read_folder(
        data, annotate, pool, lambda share: None, listing=listing, annotated=annotated, labels=labels
    )
    numbers = list(labels.numbers)
    if card.kind.does == "reid":  # identities are the set's own
        return [
            replace(sample, label=str(numbers[int(sample.annotation[0])])) for sample in samples
        ], folder_report
    if card.kind.does == "landmark":
        return samples, folder_report
    return _by_class(samples, annotated.names, numbers, card.classes), folder_report


def _place(data: Path, annotations: Path | None, does: str) -> Place:
    """Where a set and its annotations are: exports keep these beside the folder of the images, or above it."""
    if annotations is not None:
        annotations = annotations.absolute()
        root = os.path.commonpath([data.absolute(), annotations.parent])
    else:
        root = str(data.absolute().parents[min(1, len(data.absolute().parents) - 1)])
    return Place(root, str(data.absolute()), None if annotations is None else str(annotations), "", does)


def _by_class(
    samples: Sequence[Sample], names: Sequence[str], numbers: Sequence[Label], classes: Sequence[str]
) -> list[Sample]:
    """Samples with ids of the model's classes in the place of numbers of labels. names: those of the format.

    Objects of classes that the model does not have count as absent. Raises DataError for a sample that is of such a
    class.
    """
    _, ids = settle([names], numbers, classes)
    settled, absent = with_class_ids(samples, numbers, ids, dict(enumerate(classes)))
    told = listed([f"{label} ({count})" for label, count in absent.items()])
    if len(settled) < len(samples):
        left = {sample.image for sample in settled}
        first = next(sample.image for sample in samples if sample.image not in left)
        raise DataError(
            f"{printable(first)}: its class is none of the model's, which has {listed(classes)}; images of such "
            f"classes: {told}"
        )
    if absent:
        log.warning(
            "%d objects are of classes that the model does not have, and count as absent: %s",
            absent.total(),
            told,
        )
    return settled


def _predicted(
    predictor: Predictor,
    samples: Sequence[Sample],
    pool: WorkerPool,
    batch_size: int,
    report: FolderReport | None,
) -> tuple[list[Sample], list[np.ndarray]]:
    """Samples that could be predicted, and their predictions; the others are added to the report."""
    predictions: dict[int, np.ndarray] = {}
    with (
        bar(len(samples), "predicting") as advance,
        predictor.loader(samples, pool, min(batch_size, len(samples))) as loader,
    ):
        for batch, rows in predictor.stream(loader):
            predictions.update({int(i): row for i, row in zip(batch.indices, rows, strict=True) if i >= 0})
            advance(batch.count)
        problems = list(loader.problems)
    for problem in problems:
        log.warning("Left out: %s", problem)
    if report is not None:
        report.problems.extend(problems)
    indices = sorted(predictions)
    return [samples[index] for index in indices], [predictions[index] for index in indices]


def _facts(card: Card, options: argparse.Namespace) -> list[tuple[Words, str]]:
    return [
        (("Model", "模型"), str(card.onnx or card.folder / MODEL_CARD)),
        (("Data", "数据"), str(options.data)),
    ]


if __name__ == "__main__":
    sys.exit(main())
