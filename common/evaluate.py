"""`python3 -m common.evaluate MODEL --data FOLDER --out OUT`: how good a trained model is on a set with annotations."""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack

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
from common.data.formats.recognise import READERS
from common.data.problems import FolderReport
from common.data.samples import Sample
from common.errors import ConfigurationError
from common.evaluation.report import Training, report
from common.files import new_folder, replacing, spelled_out, write_json
from common.images.decoding import printable
from common.inputs import free_folder
from common.labelled_set import read_labelled_set
from common.language import Words, said
from common.predictor import Predictor
from common.processes.pool import WorkerPool
from common.reporting.log import bar
from common.trained import MODEL_CARD, Card, open_compute, open_predictor, read_card

log = logging.getLogger("visualtl")

EVALUATION, REPORT = "evaluation.json", "report.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; the exit status."""
    return carry_out(evaluate, _parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "evaluate",
        "Hold a trained model against annotations: OUT/evaluation.json and OUT/report.html.",
        "用标注评估训练好的模型，写出 OUT/evaluation.json 和 OUT/report.html。",
    )
    add_model(parser)
    parser.add_argument(
        "--data",
        type=named_path,
        required=True,
        metavar="FOLDER",
        help=said("a set with its annotations", "带标注的数据集"),
    )
    add_out(parser, "--out")
    parser.add_argument(
        "--gallery",
        type=named_path,
        metavar="FOLDER",
        help=said("re-identification: what --data is looked for in", "重识别：在其中查找 --data 的图像"),
    )
    parser.add_argument(
        "--format",
        default="auto",
        choices=["auto", *READERS],
        help=said("of the annotations (default: found out)", "标注的格式（默认自动识别）"),
    )
    parser.add_argument(
        "--annotations",
        type=named_path,
        metavar="FILE",
        help=said(
            "file or folder of the annotations where they lie elsewhere", "标注不在通常位置时，其文件或文件夹"
        ),
    )
    parser.add_argument(
        "--score",
        type=float,
        help=said(
            "score from which detections are counted (default: the best of the set)",
            "从该得分起计入检测结果（默认取数据集上的最佳值）",
        ),
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
        how = (card, reading, pool, options.format, options.annotations)
        samples, folder_report = read_labelled_set(spelled_out(options.data), *how)
        gallery, _ = read_labelled_set(options.gallery, *how) if options.gallery else ([], None)
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
