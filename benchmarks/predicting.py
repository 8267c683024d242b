"""How fast `common.predict` is by either engine, and what memory it takes.

    python benchmarks/predicting.py [--images 96] [--links 100000] [--repeats 3] [--ultralytics PYTHON]

YOLOv3 with mobilenet1.0 and random parameters at 416 px, 640x480 JPEGs. Rows a second are those between a short and a
long run of the command's `main`, in one process: start, first row and end are left out. The bare loop is the same graph
on images that are decoded and resized already. Memory is the largest process's, of a re-identification network at 32 px
and links to one small picture. PYTHON: of an environment that has Ultralytics and PyTorch, whose `predict` with YOLO11n
(random parameters) takes the same files in batches of the same size.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table

SIZE = 416
BATCH = 16
# So many images are predicted before the clock runs: the first alone, then a batch.
FIRST = BATCH + 1

_ULTRALYTICS = """
import json, sys, time
import torch
from ultralytics import YOLO
threads, size, batch, folder, repeats = int(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[5])
torch.set_num_threads(threads)
model = YOLO("yolo11n.yaml")
_, _, _, flops = model.info()
def run(which):
    began = time.perf_counter()
    for _ in model.predict(folder + "/" + which, imgsz=size, batch=batch, device="cpu", stream=True, verbose=False):
        pass
    return time.perf_counter() - began
run("short")
seconds = [run("long") - run("short") for _ in range(repeats)]
print(json.dumps({"seconds": seconds, "gflops": flops * (size / 640) ** 2}))
"""


def write_models(folder: Path) -> None:
    """Log_dirs of a detector and of a small ReID network, with ONNX files."""
    import mxnet as mx

    from benchmarks.runtimes import spread_yolov3
    from common.config.reading import configuration
    from common.engine.inference import DeviceInference
    from common.export.model_files import export_model
    from common.export.onnx.files import PLAIN, Images, export_onnx
    from common.predictor import Predictor
    from detect.config import YOLOv3Config
    from detect.yolov3.task import YOLOv3Task
    from reid.config import ReIDConfig
    from reid.task import ReIDTask

    mx.random.seed(0)
    detector: dict[str, Any] = {
        "log_dir": str(folder / "detector"),
        "gpus": [],
        "model": {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [SIZE, SIZE]},
        "train": {"pretrained_base": False},
    }
    embedding = {
        "log_dir": str(folder / "reid"),
        "gpus": [],
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {"input_width": 32, "input_height": 32},
    }
    for task in (
        YOLOv3Task(configuration(YOLOv3Config, detector)),
        ReIDTask(configuration(ReIDConfig, embedding)),
    ):
        place = Path(task.config.log_dir)
        place.mkdir()
        model = task.build(["a", "b", "c"], [mx.cpu()], None)
        if place.name == "detector":
            spread_yolov3(model.network, SIZE)
        export_model(model, task, place, {"name": "none", "value": None, "epoch": None}, {})
        shape = (SIZE, SIZE) if place.name == "detector" else (32, 32)
        compute = DeviceInference(model.inference_block(), [mx.cpu()])
        predictor = Predictor(task.resize, shape, compute, task.decoder(model))
        pixels = np.random.default_rng(0).integers(0, 256, (2, shape[1], shape[0], 3)).astype(np.uint8)
        images = Images(["a", "b"], [(pixels, np.tile(np.eye(2, 3), (2, 1, 1)))], shape)
        _, problems = export_onnx(place, {PLAIN: predictor}, images)
        if problems:
            raise SystemExit("; ".join(problems))
    table.tell()


def write_images(folder: Path, count: int) -> None:
    """Folders of 640x480 JPEGs: one alone, a few, and `count` more than those."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count + FIRST, 12, 16, 3)).astype(np.uint8)
    for name, several in (("one", 1), ("short", FIRST), ("long", count + FIRST)):
        (folder / name).mkdir()
        for number in range(several):
            pixels = cv2.resize(coarse[number], (640, 480), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / name / f"{number:05d}.jpg"), pixels)


def predict(*words: object) -> float:
    """Seconds of the command, in this process."""
    from common.predict import main

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        status = main([*map(str, words), "--out", f"{folder}/out", "--gpus", "none"])
    if status:
        raise SystemExit(f"predict ended with {status}")
    return time.perf_counter() - began


def rates(folder: Path, engine: str, repeats: int) -> None:
    """Tell seconds of the images of `long` that are not in `short`: predicted, and by the bare loop."""
    from common.engine.devices import load_mxnet
    from common.trained import open_compute, read_card

    if engine == "mxnet":
        load_mxnet()
    card = read_card(folder / "detector")
    count = len(list((folder / "long").iterdir())) - FIRST
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
    words = ["--engine", engine, "--batch", BATCH]
    compute = open_compute(card, engine, [])
    compute(images)
    seconds, bare = [], []
    for number in range(repeats + 1):
        began = time.perf_counter()
        for _ in range(count // BATCH):
            compute(images)
        loop = time.perf_counter() - began
        run = predict(folder / "detector", folder / "long", *words) - predict(
            folder / "detector", folder / "short", *words
        )
        if number:  # the first turn warms up
            bare.append(loop)
            seconds.append(run)
    table.tell(seconds=seconds, bare=bare)


def first_row(folder: Path) -> None:
    """Tell seconds of the whole command on one image, MXNet being imported already."""
    from common.engine.devices import load_mxnet

    load_mxnet()
    importlib.import_module("common.predict")
    table.tell(seconds=predict(folder / "detector", folder / "one", "--engine", "mxnet"))


def command(*words: object) -> tuple[float, float]:
    """Seconds of `python -m common.predict` as a process, and the largest memory of it or a worker in MB."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        line = [
            sys.executable,
            "-m",
            "common.predict",
            *map(str, words),
            "--out",
            f"{out}/out",
            "--gpus",
            "none",
        ]
        subprocess.run(line, cwd=table.ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def gflops(folder: Path) -> float:
    """Multiplications and additions of the detector's convolutions for an image, in billions."""
    import onnx

    model = onnx.load(str(next((folder / "detector").glob("*-raw.onnx"))))
    model = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    weights = {one.name: one.dims for one in model.graph.initializer}
    total = 0.0
    for node in model.graph.node:
        if node.op_type == "Conv":
            places = np.prod(shapes[node.output[0]][2:])
            total += 2 * float(np.prod(weights[node.input[1]]) * places)
    return total / 1e9


def main() -> None:
    """Print the rows."""
    made = table.parser(__doc__)
    made.add_argument("--images", type=int, default=96)
    made.add_argument("--links", type=int, default=100000)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--ultralytics", metavar="PYTHON")
    made.add_argument("arguments", nargs="*")
    options = made.parse_args()
    given = options.arguments
    sides: dict[str, Callable[[], object]] = {
        "models": lambda: write_models(Path(given[0])),
        "rates": lambda: rates(Path(given[0]), given[1], int(given[2])),
        "first": lambda: first_row(Path(given[0])),
        "command": lambda: table.tell(figures=command(*given)),
    }
    if options.side:
        sides[options.side]()
        return
    count, links, repeats = (
        (BATCH, 200, 1) if options.quick else (options.images, options.links, options.repeats)
    )
    count -= count % BATCH

    def side(name: str, *arguments: object) -> dict[str, Any]:
        return table.side("predicting.py", name, "--", *arguments)

    rows = []
    with tempfile.TemporaryDirectory() as given_folder:
        folder = Path(given_folder)
        side("models", folder)
        write_images(folder, count)
        what = "predict, YOLOv3 mobilenet1.0 416, 640x480 JPEGs"
        speed = {}
        for engine in ("mxnet", "onnx"):
            told = side("rates", folder, engine, repeats)
            speed[engine] = [count / value for value in told["seconds"]]
            bare = [count / value for value in told["bare"]]
            reach = "0.9 of the limit" if engine == "mxnet" else ""
            rows.append(
                table.compare(f"{what}, --engine {engine}, images/s", speed[engine], limit="bare loop",
                              bounds=bare, reach=reach, rate=True)
            )  # fmt: skip
        rows.append(
            table.compare(f"{what}, --engine onnx, images/s", speed["onnx"], "--engine mxnet", speed["mxnet"],
                          reach="1x", rate=True)
        )  # fmt: skip
        rows.append(_beside_ultralytics(folder, speed["onnx"], options.ultralytics, repeats))
        times = [side("first", folder)["seconds"] for _ in range(repeats)]
        rows.append(table.compare("predict, one image, MXNet imported already, s", times, reach="1 s"))
        words = [folder / "detector", folder / "one", "--engine", "onnx"]
        times = [side("command", *words)["figures"][0] for _ in range(repeats)]
        rows.append(
            table.compare(
                "python -m common.predict, one image, --engine onnx, start to end, s", times, reach="1.5 s"
            )
        )
        rows += _memory(folder, links, side)
    table.report(rows, options)


def _beside_ultralytics(folder: Path, speed: list[float], python: str | None, repeats: int) -> table.Row:
    what = "predict, --engine onnx, GFLOP/s"
    peer = "Ultralytics predict, YOLO11n"
    work = gflops(folder)
    if not python:
        return table.compare(
            what, [work * value for value in speed], f"{peer}: not asked for (--ultralytics)", []
        )
    threads = len(os.sched_getaffinity(0))
    words = [python, "-c", _ULTRALYTICS, threads, SIZE, BATCH, folder, repeats]
    environment = {**os.environ, "YOLO_OFFLINE": "true"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"Ultralytics failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    told = json.loads(done.stdout.splitlines()[-1])
    count = len(list((folder / "long").iterdir())) - FIRST
    theirs = [told["gflops"] * count / value for value in told["seconds"]]
    rate = count / sorted(told["seconds"])[len(told["seconds"]) // 2]
    peer += f" ({rate:.1f} images/s of {told['gflops']:.2f} GFLOP; ours {work:.1f})"
    return table.compare(what, [work * value for value in speed], peer, theirs, reach="1x", rate=True)


def _memory(folder: Path, links: int, side: Callable[..., dict[str, Any]]) -> list[table.Row]:
    import cv2

    picture = folder / "small.png"
    cv2.imwrite(str(picture), np.zeros((16, 16, 3), np.uint8))
    few = min(1000, links // 2)
    for several in (few, links):
        (folder / f"{several}").mkdir()
        for number in range(several):
            os.link(picture, folder / f"{several}" / f"{number:06d}.png")
    rows = []
    for engine in ("mxnet", "onnx"):
        words = ["--engine", engine, "--batch", 64]
        largest = [
            side("command", folder / "reid", folder / f"{several}", *words)["figures"]
            for several in (few, links)
        ]
        what = f"predict, memory of {links} images more than of {few}, --engine {engine}, MB"
        rows.append(
            table.Row(what, largest[1][1] - largest[0][1], limit=f"all of it with {few}", bound=largest[0][1])
        )
    return rows


if __name__ == "__main__":
    main()
