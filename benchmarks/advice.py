"""Jobs in which each piece of advice is given, beside jobs in which it is not: the runs behind `common/advice.py`.

    python benchmarks/advice.py CLASSES [--out advice] [--only overfitting good ...] [--doubts]

CLASSES: a set of photos in folders of classes, with `train` and `valid` (hymenoptera: ants and bees). Sets with what is
to be advised about are made from it, and from the blood cells that ship with the project: with few images, with wrong
labels, as panoramas. A row for each job: codes of what it says, and the figures that show whether following it helps. A
job that has finished is not run again: the command goes on where it was ended. --doubts: instead a model is trained on
the set as it is and held against validation and test images of which some have been given the wrong label: whether
these are the labels that it doubts.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CELLS = ROOT / "tests/data/blood_cells"
PARTS = {"train_dir": "train", "valid_dir": "valid"}

CLASSIFIER = {
    "gpus": [],
    "model": {"base_network": "mobilenetv2_1.0", "use_pretrained": True},
    "train": {
        "batch_size": 16,
        "epochs": 6,
        "num_workers": 2,
        "lr_mode": "cosine",
        "dtype": "bfloat16",
        "input_width": 96,
        "input_height": 96,
    },
    "export": {"onnx": False},
}
DETECTOR = {
    "gpus": [],
    "dataset": {"classes": ["RBC", "WBC", "Platelets"]},
    "model": {"base_network": "mobilenetv2_1.0_lite", "data_shape": [96, 96], "amp": True},
    "train": {"batch_size": 8, "epochs": 12, "num_workers": 2, "lr_mode": "cosine"},
    "valid": {"interval": 3},
    "export": {"onnx": False},
}


@dataclass(frozen=True)
class Job:
    """A job. make: its set, from that of classes, into a folder. changes: KEY=VALUE. expected: a code that it must say;
    "": it may say nothing of the set and the training but what its figures mean."""

    name: str
    expected: str
    make: Callable[[Path, Path], None]
    changes: list[str] = field(default_factory=list)
    detects: bool = False


def classes(source: Path, out: Path) -> None:
    """The set as it is."""
    for part in PARTS.values():
        shutil.copytree(source / part, out / part)


def few(count: int, only: str = "") -> Callable[[Path, Path], None]:
    """So many training images of each class, or of one."""

    def make(source: Path, out: Path) -> None:
        classes(source, out)
        for folder in (out / "train").iterdir():
            if only in ("", folder.name):
                for path in sorted(folder.iterdir())[count:]:
                    path.unlink()

    return make


def wrong(part: str, share: float) -> Callable[[Path, Path], None]:
    """A share of a part's images lies in the folder of the other class."""

    def make(source: Path, out: Path) -> None:
        classes(source, out)
        folders = sorted((out / part).iterdir())
        lists = [sorted(folder.iterdir()) for folder in folders]
        for number, paths in enumerate(lists):
            other = folders[(number + 1) % len(folders)]
            for path in random.Random(number).sample(paths, round(share * len(paths))):
                path.rename(other / f"moved_{path.name}")

    return make


def few_valid(source: Path, out: Path) -> None:
    """Twelve validation images of each class."""
    classes(source, out)
    for folder in (out / "valid").iterdir():
        for path in sorted(folder.iterdir())[12:]:
            path.unlink()


def without_validation(source: Path, out: Path) -> None:
    """The training set alone."""
    shutil.copytree(source / "train", out / "train")


def damaged(source: Path, out: Path) -> None:
    """Four images end in their middle."""
    classes(source, out)
    for path in sorted((out / "train").glob("*/*.jpg"))[:4]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cells(rows: int = 1, columns: int = 1) -> Callable[[Path, Path], None]:
    """Blood cells, so many photos beside and above one another in each."""

    def make(source: Path, out: Path) -> None:
        for part in PARTS.values():
            (out / part).mkdir(parents=True)
            photos = sorted((CELLS / f"detect_{part}").glob("*.jpg"))
            for first in range(0, len(photos) - rows * columns + 1, rows * columns):
                _tile(photos[first : first + rows * columns], columns, out / part / f"{first:03}.jpg")

    return make


def _tile(photos: list[Path], columns: int, path: Path) -> None:
    images = [cv2.imread(str(photo)) for photo in photos]
    height, width = images[0].shape[:2]
    lines = []
    for number, photo in enumerate(photos):
        left, top = number % columns * width, number // columns * height
        for line in photo.with_suffix(".txt").read_text().split():
            name, *box = map(int, line.split(","))
            if name >= 0:
                lines.append(f"{name},{box[0] + left},{box[1] + top},{box[2] + left},{box[3] + top}")
    images = [cv2.resize(image, (width, height)) for image in images]
    rows = [np.hstack(images[start : start + columns]) for start in range(0, len(images), columns)]
    cv2.imwrite(str(path), np.vstack(rows))
    path.with_suffix(".txt").write_text("\n".join(lines or ["-1,-1,-1,-1,-1"]))


RANDOM = "model.use_pretrained=false"
JOBS = (
    Job("good", "", classes),
    Job("random start", "random_start", classes, [RANDOM]),
    Job("12 images of each class", "few_images", few(12), ["train.epochs=24"]),
    Job("12 images of ants", "class_with_few_images", few(12, "ants")),
    Job(
        "labels of 45 % of the training images are wrong",
        "overfitting",
        wrong("train", 0.45),
        ["train.epochs=24"],
    ),
    Job(
        "labels of 7 % of the validation images are wrong",
        "suspect_labels",
        wrong("valid", 0.07),
        ["train.input_width=160", "train.input_height=160"],
    ),
    Job("24 validation images", "few_validation_images", few_valid),
    Job("no validation set", "no_validation", without_validation, ["train.epochs=1"]),
    Job("four images end in their middle", "left_out", damaged, ["train.epochs=1"]),
    Job(
        "a detector for an epoch, at a tenth of its rate",
        "below_threshold",
        cells(),
        ["train.epochs=1", "valid.interval=1", "train.lr=0.001"],
        True,
    ),
    Job("a detector for 6 epochs", "few_steps", cells(), ["train.epochs=6"], True),
    Job(
        "same, input 160 px",
        "still_improving",
        cells(),
        ["train.epochs=6", "valid.interval=1", "model.data_shape=[160,160]"],
        True,
    ),
    Job(
        "photos of 2 x 2, input 96 px",
        "small_objects",
        cells(2, 2),
        ["train.epochs=24", "valid.interval=6"],
        True,
    ),
    Job(
        "same, input 192 px",
        "",
        cells(2, 2),
        ["train.epochs=24", "valid.interval=6", "model.data_shape=[192,192]"],
        True,
    ),
    Job(
        "panoramas of 5 photos",
        "boxes_without_anchor",
        cells(1, 5),
        ["train.epochs=40", "valid.interval=10"],
        True,
    ),
    Job(
        "same, model.anchor_fit",
        "",
        cells(1, 5),
        ["train.epochs=40", "valid.interval=10", "model.anchor_fit=true"],
        True,
    ),
)


def main() -> int:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description="Jobs in which each piece of advice is given.")
    parser.add_argument("classes", type=Path)
    parser.add_argument("--out", type=Path, default=Path("advice"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--doubts", action="store_true")
    options = parser.parse_args()
    if options.doubts:
        doubts(options.classes, options.out / "doubts")
        return 0
    print("| job | must say | says | figure |\n| --- | --- | --- | --- |")
    missed = 0
    for job in JOBS:
        if not options.only or job.name in options.only or job.expected in options.only:
            out = options.out / job.name.replace(" ", "_")
            if not (out / "log/status.json").exists() or not _said(out):
                _run(job, options.classes, out)
            said = [piece["code"] for piece in _said(out)]
            missed += bool(job.expected) and job.expected not in said
            print(
                f"| {job.name} | {job.expected or '–'} | {', '.join(said)} | {', '.join(_figures(out))} |",
                flush=True,
            )
    return min(missed, 1)


DOUBTING = Job("doubts", "", classes, ["train.epochs=10", "train.input_width=160", "train.input_height=160"])
SWAPPED = (0.0, 0.05, 0.05, 0.05, 0.1, 0.1, 0.1)


def doubts(source: Path, out: Path) -> None:
    """A table: of images with a wrong label how many are doubted, and of those that are doubted how many have one."""
    if not (out / "log/model.json").exists():
        _run(DOUBTING, source, out, kept=True)
    print("| images | accuracy | wrong labels | doubted | of these wrong |\n| --- | --- | --- | --- | --- |")
    for draw, share in enumerate(SWAPPED):
        with tempfile.TemporaryDirectory() as place:
            data, result = Path(place) / "data", Path(place) / "result"
            data.mkdir()
            moved = _swapped(source, data, share, draw)
            words = [out / "log", "--data", data, "--out", result]
            python("-m", "common.evaluate", *words)
            document = json.loads((result / "evaluation.json").read_text())
        named = {Path(entry["image"]).name for entry in document["suspects"]}
        cells = (
            len(list(source.glob("valid/*/*"))) + len(list(source.glob("test/*/*"))),
            f"{document['figures']['accuracy']:.3f}",
            len(moved),
            len(named),
            len(named & moved),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _swapped(source: Path, out: Path, share: float, draw: int) -> set[str]:
    """Validation and test images, a share of each class in the folder of the next one: the names of these."""
    names = sorted(path.name for path in (source / "train").iterdir())
    moved: set[str] = set()
    for number, name in enumerate(names):
        (out / name).mkdir(exist_ok=True)
        (out / names[(number + 1) % len(names)]).mkdir(exist_ok=True)
        paths = sorted(path for part in ("valid", "test") for path in (source / part / name).iterdir())
        chosen = random.Random(f"{draw} {name}").sample(paths, round(share * len(paths)))
        for path in paths:
            folder = names[(number + 1) % len(names)] if path in chosen else name
            target = out / folder / f"{name}_{path.parent.parent.name}_{path.name}"
            target.symlink_to(path.resolve())
            if path in chosen:
                moved.add(target.name)
    return moved


def _said(out: Path) -> list[dict[str, str]]:
    said: list[dict[str, str]] = json.loads((out / "log/status.json").read_text()).get("advice", [])
    return said


def python(*words: Any) -> None:
    """Run a command of the project. Raises SystemExit with its error where it fails."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def _run(job: Job, source: Path, out: Path, *, kept: bool = False) -> None:
    """kept: the model stays."""
    shutil.rmtree(out, ignore_errors=True)
    data = out / "data"
    data.mkdir(parents=True)
    job.make(source, data)
    base = DETECTOR if job.detects else CLASSIFIER
    values: dict[str, Any] = json.loads(json.dumps(base))
    values["log_dir"] = str((out / "log").resolve())
    values.setdefault("dataset", {})["data_root"] = str(data.resolve())
    values["dataset"] |= {key: part for key, part in PARTS.items() if (data / part).is_dir()}
    file = out / "job.json"
    file.write_text(json.dumps(values, indent=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "detect/fit_ssd.py" if job.detects else "classification/fit_classification.py"
    words = [script, "--config", str(file.resolve()), "--linger", "0", "--port", str(port)]
    for change in job.changes:
        words += ["--set", change]
    python(*words)
    for path in [data, *([] if kept else [*out.glob("log/*.pkl"), *out.glob("log/*.params")])]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _figures(out: Path) -> Iterator[str]:
    path = out / "log/valid_evaluation.json"
    if not path.exists():
        return
    document = json.loads(path.read_text())
    for name in ("mAP", "accuracy"):
        if document["figures"].get(name) is not None:
            yield f"{name} {document['figures'][name]:.3f}"
    for name, row in document["by_class"].items():
        yield f"{name} " + (f"AP {row['AP'] or 0:.2f}" if "AP" in row else f"recall {row['recall'] or 0:.2f}")
    log = (out / "log/estimator.log").read_text()
    curve = [
        line.partition("Validation: ")[2].split(",")[0]
        for line in log.splitlines()
        if "] Validation: " in line
    ]
    yield "after epochs: " + " ".join(figure.partition("=")[2][:5] for figure in curve)


if __name__ == "__main__":
    sys.exit(main())
