"""`python3 -m common.evaluate MODEL --data FOLDER --out OUT`: how good a trained model is on a set with annotations."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from common.commands import add_computing, carry_out, parse_gpus, workers
from common.data.listing import Listing
from common.data.samples import read_folder
from common.errors import ConfigurationError
from common.evaluation.markup import Words
from common.evaluation.report import Training, report
from common.files import new_folder, replacing, write_json
from common.images.decoding import printable
from common.inputs import free_folder
from common.processes.pool import WorkerPool
from common.reporting.log import bar
from common.trained import MODEL_CARD, Card, open_compute, open_predictor, read_card

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
        "model", type=Path, metavar="MODEL", help="a job's log_dir, its model.json, or an .onnx file"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="a set with its annotations"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a folder that does not exist or is empty; it appears whole or not at all",
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
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(count))
        listing = Listing(str(options.data))
        annotate, names = reading.annotations(listing)
        samples, found = read_folder(
            options.data, annotate, pool, lambda share: None, listing=listing, names=names
        )
        compute = open_compute(card, options.engine, parse_gpus(options.gpus))
        predictor = open_predictor(card, compute, reading)
        advance = stack.enter_context(bar(len(samples), "predicting"))
        with predictor.loader(samples, pool, min(options.batch, len(samples))) as loader:
            predictions = {}
            for batch, rows in predictor.stream(loader):
                predictions.update(
                    {int(i): row for i, row in zip(batch.indices, rows, strict=True) if i >= 0}
                )
                advance(batch.count)
            problems = loader.problems
        for problem in problems:
            log.warning("Left out: %s", problem)
        indices = sorted(predictions)
        name = options.data.resolve().name
        document = reading.evaluator.document(
            [samples[i] for i in indices], [predictions[i] for i in indices], name, options.score
        )
        found.problems.extend(problems)
        folder = stack.enter_context(new_folder(options.out))
        write_json(folder / EVALUATION, document)
        told = Training(_facts(card, options), data={"test": found.as_json()})
        with replacing(folder / REPORT, "w") as file:
            file.write(report(f"{options.model.name}: {name}", [document], told))
    figures = document["figures"]
    told_figures = ", ".join(
        f"{key}={value:.4f}" for key, value in figures.items() if isinstance(value, float)
    )
    print(f"{told_figures}\n{options.out / EVALUATION}\n{options.out / REPORT}")


def _facts(card: Card, options: argparse.Namespace) -> list[tuple[Words, str]]:
    return [
        (("Model", "模型"), str(card.onnx or card.folder / MODEL_CARD)),
        (("Data", "数据"), str(options.data)),
    ]


if __name__ == "__main__":
    sys.exit(main())
