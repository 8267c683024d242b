"""How good a model fixed minutes buy, on open sets that nobody tuned a configuration for: what recipes are judged by.

    python benchmarks/quality.py FOLDER [--out quality] [--only bccd:yolov3 trashnet:classification ...] [--seeds 0 1 2]
                                 [--minutes 8] [--epochs 20] [--size 160] [--threads 2] [--quick]

FOLDER holds the open sets: bccd, microcontroller, coco128, trashnet, hymenoptera. The reduced ones are made from them,
in OUT/sets: bccd70 (its first 70 training images), coco5 (the five most frequent classes of coco128), trashnet40 and
hymenoptera40 (the first 40 training images of each class), trashnet64 and hymenoptera64 (their shorter side 64 pixels).
A row is a set and a task; each of its seeds is a job of the real command line with the task's defaults, `train.minutes`
and what `KEYS` says. Beside classification stands a regression on the features of
the same network with the same parameters, none of which is trained.

With `--epochs` jobs have so many, however long they take, and a detector is judged once, at the end, on validation and
test set together: more images, less chance. So changes of a recipe are compared beside other work; give each an `--out`
of its own. `--size` is the side of a detector's input.

A job that has finished is not run again: the command goes on where it was ended. It prints a table in Markdown: mean
and standard deviation of the seeds' best validation figure, of the figure on the test set, and the seconds that the
jobs took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.jobs import finished

SCRIPTS = {
    "yolov3": "detect/fit_yolov3.py",
    "centernet": "detect/fit_center_net.py",
    "classification": "classification/fit_classification.py",
}
KEYS: dict[str, dict[str, dict[str, Any]]] = {
    "yolov3": {
        "model": {
            "base_network": "mobilenet1.0",
            "use_pretrained": False,
            "data_shape": [256, 256],
            "amp": True,
        },
        "train": {"batch_size": 8, "num_workers": 2},
    },
    "centernet": {
        "model": {
            "base_network": "resnet18_v1b",
            "use_pretrained": False,
            "data_shape": [256, 256],
            "amp": True,
        },
        "train": {"batch_size": 8, "num_workers": 2, "pretrained_base": False},
        "valid": {"flip_test": False},
    },
    "classification": {
        "model": {"base_network": "mobilenetv2_1.0", "use_pretrained": True},
        "train": {"batch_size": 32, "num_workers": 2, "dtype": "bfloat16"},
    },
}
MINUTES = {"yolov3": 8.0, "centernet": 8.0, "classification": 5.0}
DETECTION = ("bccd", "microcontroller", "coco5", "bccd70")
CLASSIFICATION = tuple(name + part for name in ("trashnet", "hymenoptera") for part in ("", "40", "64"))
ROWS = (
    *(f"{name}:{task}" for name in DETECTION for task in ("yolov3", "centernet")),
    *(f"{name}:classification" for name in CLASSIFICATION),
)
# Other measurements of the same sets and minutes: Ultralytics YOLO11n, from scratch, 256 px, two cores.
PEERS = {"bccd": 0.585, "microcontroller": 0.400}
# Of the regression on features, by cross-validation over the training images.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def linked(source: Path, target: Path, names: Sequence[str]) -> None:
    """A folder that holds links to files of another."""
    target.mkdir(parents=True)
    for name in names:
        (target / name).symlink_to((source / name).resolve())


def images_of(folder: Path) -> list[str]:
    """Names of the images in a folder, in order."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def first_of_detection(source: Path, target: Path, count: int) -> None:
    """A detection set with the first `count` of its training images."""
    for part in ("detect_valid", "detect_test"):
        target.mkdir(parents=True, exist_ok=True)
        (target / part).symlink_to((source / part).resolve())
    shutil.copy(source / "classes.txt", target)
    train = source / "detect_train"
    kept = images_of(train)[:count]
    texts = [Path(name).with_suffix(".txt").name for name in kept]
    linked(train, target / "detect_train", [*kept, *(name for name in texts if (train / name).exists())])


def frequent_classes(source: Path, target: Path, count: int) -> None:
    """A detection set with the `count` classes of which detect_train has the most objects; the other objects are left
    out, the images stay."""
    names = (source / "classes.txt").read_text().splitlines()

    def rows(text: Path) -> list[tuple[int, str]]:
        found = [line.partition(",") for line in text.read_text().split()]
        return [(int(number), box) for number, _, box in found]

    objects = Counter(number for text in (source / "detect_train").glob("*.txt") for number, _ in rows(text))
    ids = {number: place for place, (number, _) in enumerate(objects.most_common(count))}
    for part in ("detect_train", "detect_valid", "detect_test"):
        linked(source / part, target / part, images_of(source / part))
        for text in (source / part).glob("*.txt"):
            kept = [f"{ids[number]},{box}" for number, box in rows(text) if number in ids]
            (target / part / text.name).write_text(" ".join(kept))
    (target / "classes.txt").write_text("".join(f"{names[number]}\n" for number in ids))


def first_of_classes(source: Path, target: Path, count: int) -> None:
    """A classification set with the first `count` training images of each class."""
    target.mkdir(parents=True)
    for part in ("valid", "test"):
        (target / part).symlink_to((source / part).resolve())
    for folder in sorted((source / "train").iterdir()):
        linked(folder, target / "train" / folder.name, images_of(folder)[:count])


def small(source: Path, target: Path, side: int) -> None:
    """A classification set whose images have a shorter side of `side` pixels."""
    for part in ("train", "valid", "test"):
        for folder in sorted((source / part).iterdir()):
            (target / part / folder.name).mkdir(parents=True)
            for name in images_of(folder):
                image = cv2.imread(str(folder / name))
                share = side / min(image.shape[:2])
                made = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(target / part / folder.name / Path(name).with_suffix(".png").name), made)


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "coco5": lambda data, target: frequent_classes(data / "coco128", target, 5),
    "bccd70": lambda data, target: first_of_detection(data / "bccd", target, 70),
    "trashnet40": lambda data, target: first_of_classes(data / "trashnet", target, 40),
    "hymenoptera40": lambda data, target: first_of_classes(data / "hymenoptera", target, 40),
    "trashnet64": lambda data, target: small(data / "trashnet", target, 64),
    "hymenoptera64": lambda data, target: small(data / "hymenoptera", target, 64),
}


def prepared(name: str, data: Path, out: Path) -> Path:
    """The folder of a set, made where it is one of the reduced ones."""
    if name not in MAKERS:
        return data / name
    target = out / "sets" / name
    if not target.exists():
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        MAKERS[name](data, part)
        part.rename(target)
    return target


def configuration(row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The job of a row and a seed."""
    name, _, task = row.partition(":")
    folder = prepared(name, options.data, options.out)
    made: dict[str, Any] = json.loads(json.dumps(KEYS[task]))
    made |= {"log_dir": str(options.out / row.replace(":", "_") / str(seed)), "gpus": []}
    detects = task != "classification"
    parts = {f"{part}_dir": f"detect_{part}" if detects else part for part in ("train", "valid", "test")}
    made["dataset"] = {"data_root": str(folder), **parts}
    if detects:
        classes = (folder / "classes.txt").read_text().split("\n")
        made["dataset"]["classes"] = [c for c in classes if c]
    made["train"] |= {"seed": seed, "minutes": options.minutes or MINUTES[task]}
    if options.size and detects:
        made["model"]["data_shape"] = [options.size, options.size]
    epochs = 1 if options.quick else options.epochs
    if epochs:
        made["train"] |= {"minutes": 0.0, "epochs": epochs}
    if options.epochs and detects:
        made["dataset"] |= {"valid_dir": ["detect_valid", "detect_test"], "test_dir": None}
        made.setdefault("valid", {})["interval"] = options.epochs
    return made


def run(row: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one job, which is started or resumed unless it has finished."""
    made = configuration(row, seed, options)
    status = finished(SCRIPTS[row.partition(":")[2]], made, options.threads)
    figures = {
        "valid": status["best_metric"]["value"],
        "seconds": status["updated"] - status["started"],
        "epochs": status["epochs"],
    }
    test = Path(made["log_dir"]) / "test_evaluation.json"
    if test.exists():
        figures["test"] = json.loads(test.read_text())["figures"][status["best_metric"]["name"]]
    return figures


def features(folder: Path, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, C) of the images below class folders by the network that classification begins with, and classes."""
    from common.engine.devices import load_mxnet

    load_mxnet(options.threads)
    import mxnet as mx

    from classification.config import ClassificationConfig
    from classification.task import ClassificationTask
    from common.config.reading import configuration as validated
    from common.images.decoding import decode

    given = {"log_dir": "unused", "gpus": [], **KEYS["classification"]}
    given["dataset"] = {"data_root": str(folder.parent)}
    task = ClassificationTask(validated(ClassificationConfig, given))
    classes = sorted(path.name for path in folder.iterdir())
    model = task.build(classes, [mx.cpu()], None)
    resize = task.resize
    found, labels = [], []
    for number, name in enumerate(classes):
        for image in images_of(folder / name):
            pixels, _ = decode(str(folder / name / image))
            made = np.zeros((task.shape[1], task.shape[0], 3), np.uint8)
            resize.draw(pixels, made, None)
            array = mx.nd.image.normalize(
                mx.nd.image.to_tensor(mx.nd.array(made, dtype="uint8")),
                (0.485, 0.456, 0.406),
                (0.229, 0.224, 0.225),
            )
            found.append(model.network.features(array.expand_dims(0)).asnumpy().reshape(-1))
            labels.append(number)
    return np.asarray(found), np.asarray(labels)


def regression(inputs: np.ndarray, labels: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
    """A multinomial logistic regression on standardised features; gives classes of other features."""
    from scipy.optimize import minimize

    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    rows = np.concatenate([(inputs - mean) / deviation, np.ones((len(inputs), 1))], axis=1)
    count = labels.max() + 1
    wanted = np.eye(count)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(rows.shape[1], count)
        logits = rows @ weights
        logits -= logits.max(axis=1, keepdims=True)
        logarithms = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        kept = weights.copy()
        kept[-1] = 0  # the bias is free
        value = -(wanted * logarithms).sum() / len(rows) + penalty / 2 * (kept**2).sum()
        return value, (rows.T @ (np.exp(logarithms) - wanted) / len(rows) + penalty * kept).reshape(-1)

    best = minimize(loss, np.zeros(rows.shape[1] * count), jac=True, method="L-BFGS-B")
    weights = best.x.reshape(rows.shape[1], count)
    return lambda others: (((others - mean) / deviation) @ weights[:-1] + weights[-1]).argmax(axis=1)


def frozen(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Accuracy of a regression on the features that nothing was trained for, its penalty chosen on training images."""
    path = options.out / f"{name}_frozen.json"
    if not path.exists():
        folder = prepared(name, options.data, options.out)
        sets = {part: features(folder / part, options) for part in ("train", "valid", "test")}
        inputs, labels = sets["train"]
        fold = np.random.default_rng(0).permutation(len(inputs)) % 4

        def score(penalty: float) -> float:
            right = 0
            for number in range(4):
                fitted = regression(inputs[fold != number], labels[fold != number], penalty)
                right += int((fitted(inputs[fold == number]) == labels[fold == number]).sum())
            return right

        fitted = regression(inputs, labels, max(PENALTIES, key=score))
        figures = {part: float((fitted(sets[part][0]) == sets[part][1]).mean()) for part in ("valid", "test")}
        path.write_text(json.dumps(figures))
    read: dict[str, float] = json.loads(path.read_text())
    return read


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    """Run what is missing, and print the table after each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="SET:TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--minutes", type=float, help="of each job; else 8 for detection, 5 for classification"
    )
    parser.add_argument("--epochs", type=int, help="of each job, instead of minutes")
    parser.add_argument("--size", type=int, help="side of a detector's input instead of 256")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--quick", action="store_true", help="one epoch: shows that it runs, no figures to keep"
    )
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.data = options.data.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    heading = ("set", "task", "validation", "test", "beside it", "seconds", "epochs")
    lines = [heading, tuple("---" for _ in heading)]
    for row in options.only:
        name, _, task = row.partition(":")
        runs = [run(row, seed, options) for seed in options.seeds]
        beside = f"YOLO11n {PEERS[name]}" if task != "classification" and name in PEERS else ""
        if task == "classification":
            known = frozen(name, options)
            beside = f"frozen features {known['valid']:.3f}, test {known['test']:.3f}"
        lines.append(
            (
                name,
                task,
                cell([figures["valid"] for figures in runs]),
                cell([figures["test"] for figures in runs if "test" in figures]),
                beside,
                f"{statistics.mean(figures['seconds'] for figures in runs):.0f}",
                f"{statistics.mean(figures['epochs'] for figures in runs):.0f}",
            )
        )
        (options.out / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
        print(f"| {' | '.join(lines[-1])} |", flush=True)
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()
