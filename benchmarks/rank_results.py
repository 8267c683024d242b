"""Do several ranks reach what one rank reaches, and what learning rate does a batch want that grows with them.

    python benchmarks/rank_results.py FOLDER [--out rank_results] [--only hymenoptera orl] [--seeds 0 1 2] [--ways 1 2]

FOLDER holds the open sets hymenoptera, orl and bccd; of the last the first 120 training images are taken. Each job is
one of the real command line with PyTorch's engine on the CPU, in float32, its ranks processes of one thread that talk
over the loopback; the Python that runs this must have MXNet and PyTorch (`make test-torch` makes such a one:
.venv-torch). A way to train is the number of ranks and, behind it, by what batch and learning rate are multiplied:
`2x2x1` is two ranks and twice the batch, each rank with the rows that one alone would have, at the same rate; `4s` is
four ranks whose BatchNorms go by the whole batch. Epochs stay what they are. A job that has finished is not run
again. Prints a table in Markdown: what a job's model reaches on the validation and the test set, and how far its mean
is from one rank's, in standard errors of their difference.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.engines import ROWS as ENGINE_ROWS
from benchmarks.engines import apart, cell
from benchmarks.jobs import finished
from benchmarks.quality import first_of_detection

SCRIPT = "classification/fit_classification.py"


def classifier(epochs: int) -> dict[str, Any]:
    """On what ImageNet has taught, with images so small that a job takes seconds."""
    return {
        "dataset": {"train_dir": "train", "valid_dir": "valid", "test_dir": "test"},
        "model": {"base_network": "mobilenetv2_1.0", "use_pretrained": True},
        "train": {
            "batch_size": 16,
            "epochs": epochs,
            "input_width": 64,
            "input_height": 64,
            "gentle_transfer": False,  # with it BatchNorms go by no batch, and ranks by the same ones
        },
        "valid": {"interval": epochs},
    }


#: Script, configuration, learning rate.
ROWS: dict[str, tuple[str, dict[str, Any], float]] = {
    "hymenoptera": (SCRIPT, classifier(3), 0.035),
    "orl": (SCRIPT, classifier(4), 0.035),
    "bccd120": (*ENGINE_ROWS["bccd120:ssd"], 0.01),
}
WAYS = ("1", "2", "2s", "4", "4s", "1x2x1", "1x2x2", "2x2x1", "2x2x2", "4x4x1", "4x4x4")
WAY = re.compile(r"(?P<ranks>\d)(?P<synchronised>s?)(?:x(?P<batch>\d)x(?P<rate>\d))?")


def run(row: str, way: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """The figures of a job's model on its validation and test sets; the job is run unless it has finished."""
    log_dir = options.out / row / f"{way}_{seed}"
    kept = log_dir.with_suffix(".figures")
    if kept.exists():
        valid, test = json.loads(kept.read_text())
        return valid, test
    script, keys, rate = ROWS[row]
    folder = options.data / row
    if row == "bccd120":
        folder = options.out / "sets" / row
        if not folder.exists():
            first_of_detection(options.data / "bccd", folder, 120)
    parts = WAY.fullmatch(way)
    assert parts is not None
    made = json.loads(json.dumps(keys))
    made |= {"log_dir": str(log_dir), "gpus": [], "engine": "torch", "export": {"onnx": False}}
    made["dataset"]["data_root"] = str(folder)
    made["train"] |= {
        "seed": seed,
        "num_workers": 1,
        "lr_mode": "cosine",
        "lr": rate * int(parts["rate"] or 1),
        "batch_size": made["train"]["batch_size"] * int(parts["batch"] or 1),
    }
    if parts["synchronised"]:
        made["model"]["syncbn"] = True
    metric = finished(script, made, threads=1, ranks=int(parts["ranks"]))["best_metric"]["name"]
    valid, test = (
        float(json.loads((log_dir / f"{part}_evaluation.json").read_text())["figures"][metric])
        for part in ("valid", "test")
    )
    kept.write_text(json.dumps([valid, test]))
    shutil.rmtree(log_dir)
    return valid, test


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("rank_results"))
    parser.add_argument(
        "--only", nargs="+", choices=list(ROWS), default=["hymenoptera", "orl"], metavar="SET"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["1", "2", "4"], metavar="WAY")
    options = parser.parse_args()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    # A seed in every way before the next seed: whenever this is ended, there is something to compare.
    for row, seed, way in itertools.product(options.only, options.seeds, options.ways):
        found = run(row, way, seed, options)
        figures.setdefault((row, way), []).append(found)
        print(f"{row} {way}, seed {seed}: {found[0]:.3f}, {found[1]:.3f}", flush=True)
    print("| set | way | validation | test | mean of both | from one rank's, standard errors |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (row, way), pairs in figures.items():
        both = [statistics.mean(pair) for pair in pairs]
        alone = [statistics.mean(pair) for pair in figures.get((row, "1"), [])]
        cells = [cell([pair[place] for pair in pairs]) for place in (0, 1)]
        beside = "–" if way == "1" else apart(both, alone) if len(alone) == len(both) else "–"
        print(f"| {row} | {way} | {' | '.join(cells)} | {statistics.mean(both):.3f} | {beside} |")


if __name__ == "__main__":
    main()
