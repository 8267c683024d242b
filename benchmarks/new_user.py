"""What somebody gets who has photos, ten minutes, two cores and three commands: a row for benchmarks/QUALITY.md.

    python benchmarks/new_user.py SET --photos 40 --format coco --minutes 9 --out FOLDER [--classes 0]

SET: a detection set with `detect_train` and `detect_test`, labelled as the guide has it. So many photos of the former,
labelled in the format, become FOLDER/photos; three photos of the latter are new. Then `suggest`, the training that it
names and `predict` run one after the other, and the seconds of all three count. Says what is right on the new photos,
and on all of `detect_test`, where a box is right that has the class of an object and half of it in common (IoU). The
pictures with what was found stay in FOLDER/predicted/pictures. --classes: only these classes are labelled.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEW = 3


def main() -> int:
    """Label, suggest, train, predict, and print the row."""
    parser = argparse.ArgumentParser(description="From a folder of photos to boxes in new ones.")
    parser.add_argument("set", type=Path)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--format", default="coco", choices=["coco", "labelme", "voc", "yolo", "txt"])
    parser.add_argument("--minutes", default="9")
    parser.add_argument("--classes", nargs="+", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True)
    photos = chosen(options.set / "detect_train", options.photos, options.classes, options.seed)
    tests = chosen(options.set / "detect_test", 10**6, options.classes, options.seed)
    for name, images in (("txt", photos), ("test", tests), ("new", tests[:NEW])):
        copy(images, options.set, out / name, options.classes)
    python("-m", "common.convert", out / "txt", out / "photos", "--to", options.format)

    seconds = []
    began = time.monotonic()
    job = ["--out", out / "job.json", "--minutes", options.minutes, "--set", f"log_dir={out}/log"]
    said = python("-m", "common.suggest", out / "photos", *job)
    seconds.append(time.monotonic() - began)
    print(said, file=sys.stderr)
    python(*shlex.split(said.strip().splitlines()[-1])[1:], "--linger", "0", "--port", "18891")
    seconds.append(time.monotonic() - began)
    images = sorted((out / "new").glob("*.jpg"))
    python("-m", "common.predict", out / "log", *images, "--out", out / "predicted", "--pictures")
    seconds.append(time.monotonic() - began)

    status = json.loads((out / "log/status.json").read_text())
    score = str(json.loads((out / "log/model.json").read_text())["best_thresh"] or 0.3)
    cells = (
        " ".join([options.set.name, *(f"class {name}" for name in options.classes)]),
        f"{options.photos} {options.format}",
        config_in_words(out),
        ", ".join(f"{moment:.0f}" for moment in seconds) + " s",
        f"{status['batches']} steps, mAP {status['best_metric']['value']:.3f}",
        right(out, "new", score),
        right(out, "test", score),
        ", ".join(piece["code"] for piece in status["advice"]),
    )
    print(f"| {' | '.join(cells)} |")
    return 0


def chosen(folder: Path, count: int, classes: list[str], seed: int) -> list[Path]:
    """So many photos of a set that show what is labelled."""
    photos = [path for path in sorted(folder.glob("*.jpg")) if lines(path, classes) != [NOTHING]]
    random.Random(seed).shuffle(photos)
    if count < 10**6 and len(photos) < count:
        raise SystemExit(f"{folder} has {len(photos)} such photos")
    return photos[:count]


NOTHING = "-1,-1,-1,-1,-1"


def lines(photo: Path, classes: list[str]) -> list[str]:
    """The labels of a photo, of these classes (all, where none is named)."""
    found = photo.with_suffix(".txt").read_text().split()
    return [line for line in found if not classes or line.partition(",")[0] in classes] or [NOTHING]


def copy(photos: list[Path], source: Path, out: Path, classes: list[str]) -> None:
    """The photos with their labels, in a folder with the names of classes."""
    out.mkdir()
    for photo in photos:
        shutil.copyfile(photo, out / photo.name)
        (out / f"{photo.stem}.txt").write_text("\n".join(lines(photo, classes)))
    shutil.copyfile(source / "classes.txt", out / "classes.txt")


def python(*words: Any) -> str:
    """What a command of the project prints. Raises SystemExit with its error where it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def config_in_words(out: Path) -> str:
    """The network and its input."""
    values = json.loads((out / "job.json").read_text())
    size, batch = values["model"]["data_shape"][0], values["train"]["batch_size"]
    return f"{values['model']['base_network']} {size} px, batch {batch}"


def right(out: Path, name: str, score: str) -> str:
    """What the model finds in a set, and what of it is right, counted from the score that its results are."""
    place = out / f"evaluated_{name}"
    python("-m", "common.evaluate", out / "log", "--data", out / name, "--out", place, "--score", score)
    document = json.loads((place / "evaluation.json").read_text())
    figures = document["figures"]
    return f"mAP {figures['mAP']:.3f}, found {figures['recall']:.0%}, right {figures['precision']:.0%}"


if __name__ == "__main__":
    sys.exit(main())
