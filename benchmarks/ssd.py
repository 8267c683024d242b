"""What SSD's keys and recipe give: trainings of fixed epochs on open sets, for benchmarks/QUALITY.md.

    python benchmarks/ssd.py FOLDER [--out ssd] [--only reached box_loss ...] [--seeds 0 1] [--threads 2] [--quick]

FOLDER holds the open sets bccd and microcontroller. `STUDIES` has what is trained: a study is a set, keys that all its
rows share, and the keys of each row. Every seed of a row is a job of the real command line. A job that has finished is
not run again, and one that was ended goes on: its figures stand in OUT/figures.json, its folder is removed. A table in
Markdown is printed after each row: mean and standard deviation of the seeds' figures, on the validation and test set
together where the study says so (more images, less chance), and seconds of the jobs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.jobs import finished
from benchmarks.quality import cell

Keys = Mapping[str, Any]
# More epochs than any training of minutes has; the last one is looked at in any case.
_NEVER = 1000


@dataclass(frozen=True)
class Study:
    """Trainings that are compared. keys, rows: "section.key" to value. figures: classes that are told beside mAP."""

    folder: str
    keys: Keys
    rows: Mapping[str, Keys]
    figures: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1)
    together: bool = True


# Reduced: a quarter of the pixels of 300 x 300, and few passes over the images. Rows without keys are one job.
_SMALL: Keys = {"model.data_shape": [160, 160], "train.epochs": 4}
_FULL: Keys = {"model.data_shape": [300, 300]}
# What peers were given (benchmarks/QUALITY.md); for a machine with nothing else to do.
_EIGHT_MINUTES: Keys = {**_FULL, "train.minutes": 8, "train.num_workers": 2}
_CELLS = ("RBC", "WBC", "Platelets")
STUDIES: dict[str, Study] = {
    "bccd": Study("bccd", {**_FULL, "train.epochs": 16}, {"": {}}, seeds=(0, 1, 2), together=False),
    "microcontroller": Study(
        "microcontroller", {**_FULL, "train.epochs": 14}, {"": {}}, seeds=(0, 1, 2), together=False
    ),
    "bccd_minutes": Study("bccd", _EIGHT_MINUTES, {"": {}}, _CELLS, seeds=(0, 1, 2), together=False),
    "microcontroller_minutes": Study(
        "microcontroller", _EIGHT_MINUTES, {"": {}}, seeds=(0, 1, 2), together=False
    ),
    "box_loss": Study(
        "bccd",
        _SMALL,
        {"smooth_l1": {}, **{kind: {"train.box_loss": kind} for kind in ("iou", "giou", "diou", "ciou")}},
    ),
    "batch": Study("bccd", _SMALL, {"8": {}, "32": {"train.batch_size": 32}}),
    "schedule": Study(
        "bccd", _SMALL, {"cosine": {}, "step": {"train.lr_mode": "step", "train.lr_decay_epoch": "2,3"}}
    ),
    "negatives": Study(
        "bccd",
        _SMALL,
        {"0": {}, **{f"{size:g}": {"train.negative_min_size": size} for size in (0.15, 0.3)}},
        figures=_CELLS,
    ),
}


def configuration(study: Study, row: Keys, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The job of a row and a seed, without its log_dir."""
    folder = options.data / study.folder
    made: dict[str, Any] = {
        "gpus": [],
        "dataset": {
            "data_root": str(folder),
            "train_dir": "detect_train",
            "valid_dir": ["detect_valid", "detect_test"] if study.together else "detect_valid",
            "test_dir": None if study.together else "detect_test",
            "classes": [name for name in (folder / "classes.txt").read_text().split("\n") if name],
        },
        "model": {"amp": True},
        "train": {"batch_size": 8, "num_workers": 1, "lr_mode": "cosine", "seed": seed},
        "valid": {},
        "export": {"onnx": False},
    }
    for key, value in {**study.keys, **row}.items():
        section, _, name = key.partition(".")
        made[section][name] = value
    if options.quick:
        made["train"]["epochs"] = 1
    # Looking more often takes time, and choosing the best of many epochs flatters.
    made["valid"]["interval"] = made["train"].get("epochs", _NEVER)
    return made


def run(made: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """The figures of a job, which is started or resumed unless they are known."""
    path = options.out / "figures.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    name = json.dumps(made, sort_keys=True)
    if name in known:
        return known[name]
    log_dir = options.out / hashlib.sha1(name.encode()).hexdigest()[:12]
    status = finished("detect/fit_ssd.py", {**made, "log_dir": str(log_dir)}, options.threads)
    figures = {"seconds": status["updated"] - status["started"]}
    for part in ("valid", "test"):
        result = log_dir / f"{part}_data_result.json"
        if result.exists():
            for each in json.loads(result.read_text())["AP"]:
                figures |= {f"{part} {name}": float(value) for name, value in each.items()}
    path.write_text(json.dumps({**known, name: figures}, indent=1))
    shutil.rmtree(log_dir)
    log_dir.with_suffix(".json").unlink()
    return figures


def main() -> None:
    """Run what is missing, and print a line of a table for each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("ssd"))
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), metavar="STUDY")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the study's")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--quick", action="store_true", help="one epoch: shows that it runs, no figures to keep"
    )
    options = parser.parse_args()
    options.out, options.data = options.out.resolve(), options.data.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        study = STUDIES[name]
        parts = ("valid",) if study.together else ("valid", "test")
        for label, row in study.rows.items():
            seeds = options.seeds or study.seeds
            runs = [run(configuration(study, row, seed, options), options) for seed in seeds]
            cells = [
                f"{part} {figure} {cell([figures[f'{part} {figure}'] for figures in runs])}"
                for part in parts
                for figure in ("mAP", *study.figures)
            ]
            seconds = statistics.mean(figures["seconds"] for figures in runs)
            print(f"| {name} | {label} | {' | '.join(cells)} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
