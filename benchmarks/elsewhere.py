"""What a job's model is worth in a runtime: figures of a set beside those of the job, and milliseconds an image.

    python benchmarks/elsewhere.py LOG_DIR FOLDER mxnet|onnxruntime|opencv|openvino [--threads 1] [--file=-plain]

FOLDER is the set that the job's LOG_DIR/valid_evaluation.json is of. Each runtime computes one image at a time; OpenCV
takes `NAME-raw.onnx` of detectors, in which this project suppresses, the others `NAME.onnx`. But for mxnet, an
environment with requirements-onnx.lock and the runtime is enough (`make test-elsewhere` makes such).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runtimes import RUNTIMES
from common.data.listing import Listing
from common.data.samples import read_folder
from common.predictor import Compute
from common.processes.pool import WorkerPool
from common.trained import Card, open_compute, open_predictor, read_card


class Timed:
    """Arithmetic one image at a time, with the seconds that each took."""

    def __init__(self, compute: Compute) -> None:
        self.seconds: list[float] = []
        self._compute = compute

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        parts = []
        for number in range(len(images)):
            began = time.perf_counter()
            parts.append(self._compute(images[number : number + 1]))
            self.seconds.append(time.perf_counter() - began)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def computed(card: Card, runtime: str, threads: int, suffix: str | None) -> Compute:
    """A job's model as a runtime computes it. suffix: of the ONNX file, behind the model's name; None: see above."""
    if runtime == "mxnet":
        return open_compute(card, "mxnet", [])
    from common.engine.onnx_inference import OnnxInference, normalisation_table, normalise, readable

    path = card.onnx_file()
    raw = path.with_name(f"{path.stem}-raw.onnx")
    if suffix is not None:
        path = path.with_name(f"{path.stem}{suffix}.onnx")
    elif runtime == "opencv" and raw.is_file():
        path = raw
    said = OnnxInference(path)
    run = RUNTIMES[runtime](path, list(said.outputs), threads)
    table = normalisation_table(said.metadata["mean"], said.metadata["std"])

    def compute(images: np.ndarray) -> list[np.ndarray]:
        outputs = dict(zip(said.outputs, run(normalise(images, table)), strict=True))
        return readable(outputs, said.metadata.get("nms"))

    return compute


def judge(
    log_dir: Path, folder: Path, runtime: str, threads: int, which: str, suffix: str | None
) -> dict[str, Any]:
    """Figures of the set, their largest difference from the job's, and milliseconds an image: what a tenth of them is
    faster than, which other work on the machine disturbs least."""
    card = read_card(log_dir)
    reading = card.reading()
    timed = Timed(computed(card, runtime, threads, suffix))
    predictor = open_predictor(card, timed, reading)
    with WorkerPool(1) as pool:
        listing = Listing(str(folder))
        annotate, names = reading.annotations(listing)
        samples, _ = read_folder(folder, annotate, pool, lambda share: None, listing=listing, names=names)
        with predictor.loader(samples, pool, 1) as loader:
            predictions = predictor.predict(loader)
    document = reading.evaluator.document(samples, [predictions[i] for i in range(len(samples))], folder.name)
    own = json.loads((log_dir / f"{which}_evaluation.json").read_text(encoding="utf-8"))["figures"]
    figures = {name: value for name, value in document["figures"].items() if isinstance(value, float)}
    differences = {
        name: abs(value - own[name]) for name, value in figures.items() if own.get(name) is not None
    }
    worst = max(differences, key=lambda name: differences[name])
    return {
        "model": card.name,
        "runtime": runtime,
        "images": len(samples),
        "figures": figures,
        "largest_difference": {worst: differences[worst]},
        "milliseconds": round(1000 * float(np.quantile(timed.seconds, 0.1)), 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the command line asks for, as JSON on one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log_dir", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runtime", choices=("mxnet", *RUNTIMES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", default="valid", choices=("valid", "test"))
    parser.add_argument("--file", metavar="SUFFIX", help="of the ONNX file: -plain, -raw, or empty")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    figures = judge(
        options.log_dir, options.folder, options.runtime, options.threads, options.set, options.file
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
