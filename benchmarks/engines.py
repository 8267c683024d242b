"""Does PyTorch's engine train models as good as MXNet's: two open sets, three seeds, both engines, the same epochs.

    python benchmarks/engines.py FOLDER [--out engines] [--only hymenoptera:classification bccd120:ssd] [--seeds 0 1 2]

FOLDER holds the open sets hymenoptera and bccd; of the latter the first 120 training images are taken. Each job is one
of the real command line on the CPU, in float32, with one thread; the Python that runs this must have MXNet and PyTorch
(`make test-torch` makes such a one: .venv-torch). A job that has finished is not run again. Prints a table in
Markdown: mean and standard deviation over the seeds of what the model of a job reaches on its validation and test
sets, by engine, and how far the means are apart in standard errors of their difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import quality
from benchmarks.jobs import finished
from benchmarks.quality import first_of_detection

ENGINES = ("mxnet", "torch")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "hymenoptera:classification": (
        "classification/fit_classification.py",
        {
            "dataset": {"train_dir": "train", "valid_dir": "valid", "test_dir": "test"},
            "model": {"base_network": "mobilenetv2_1.0", "use_pretrained": True},
            "train": {"batch_size": 16, "epochs": 8, "input_width": 96, "input_height": 96},
            "valid": {"interval": 4},
        },
    ),
    "bccd120:ssd": (
        "detect/fit_ssd.py",
        {
            "dataset": {
                "train_dir": "detect_train",
                "valid_dir": "detect_valid",
                "test_dir": "detect_test",
                "classes": ["RBC", "WBC", "Platelets"],
            },
            "model": {"base_network": "mobilenetv2_1.0_lite", "data_shape": [160, 160]},
            "train": {"batch_size": 8, "epochs": 16},
            "valid": {"interval": 8},
        },
    ),
}


def run(row: str, engine: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """The figures of a job's model on its validation and test sets; the job is run unless it has finished."""
    name = row.partition(":")[0]
    script, keys = ROWS[row]
    folder = options.data / name
    if name == "bccd120":
        folder = options.out / "sets" / name
        if not folder.exists():
            first_of_detection(options.data / "bccd", folder, 120)
    log_dir = options.out / row.replace(":", "_") / f"{engine}_{seed}"
    made = json.loads(json.dumps(keys))
    made |= {"log_dir": str(log_dir), "gpus": [], "engine": engine, "export": {"onnx": False}}
    made["dataset"]["data_root"] = str(folder)
    made["train"] |= {"seed": seed, "num_workers": 1, "lr_mode": "cosine"}
    metric = finished(script, made, threads=1)["best_metric"]["name"]
    valid, test = (
        float(json.loads((log_dir / f"{part}_evaluation.json").read_text())["figures"][metric])
        for part in ("valid", "test")
    )
    return valid, test


def apart(one: Sequence[float], other: Sequence[float]) -> str:
    """The difference of two means, in standard errors of it."""
    if min(len(one), len(other)) < 2:
        return "–"
    error = ((statistics.variance(one) + statistics.variance(other)) / len(one)) ** 0.5
    return f"{abs(statistics.mean(one) - statistics.mean(other)) / error:.1f}" if error else "–"


def cell(values: Sequence[float]) -> str:
    """Mean, standard deviation, and the values themselves."""
    return f"{quality.cell(values)} ({', '.join(f'{value:.3f}' for value in values)})"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("engines"))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="SET:TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    # A seed with both engines before the next seed: whenever this is ended, there is something to compare.
    for row in options.only:
        for seed in options.seeds:
            for engine in ENGINES:
                found = run(row, engine, seed, options)
                figures.setdefault((row, engine), []).append(found)
                print(f"{row} {engine}, seed {seed}: {found[0]:.3f}, {found[1]:.3f}", flush=True)
    print("| set, task | figure | MXNet | PyTorch | standard errors apart |\n| --- | --- | --- | --- | --- |")
    for row in options.only:
        for place, part in enumerate(("validation", "test")):
            mine, others = ([pair[place] for pair in figures[row, engine]] for engine in ENGINES)
            print(
                f"| {row.replace(':', ', ')} | {part} | {cell(mine)} | {cell(others)} | {apart(mine, others)} |"
            )


if __name__ == "__main__":
    main()
