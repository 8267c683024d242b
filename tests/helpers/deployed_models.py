"""A detector as a job leaves it, and what is found on a photo with it, by whatever program."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from common.config.reading import configuration
from common.engine.graph import settle
from common.engine.inference import DeviceInference
from common.export.model_files import export_model
from common.export.onnx.files import PLAIN, Images, export_onnx
from common.predict import main as predict
from common.predictor import Predictor
from detect.config import YOLOv3Config
from detect.yolov3.network import head_layers
from detect.yolov3.task import YOLOv3Task
from tests.helpers.detection_jobs import BLOOD_CELLS, NAMES, ROOT

SIZE = (192, 160)
SCORE = 0.75
PHOTO = sorted((BLOOD_CELLS / "detect_valid").glob("*.jpg"))[0]
Objects = list[tuple[str, float, list[float]]]


def write_job(folder: Path) -> None:
    """Make `folder` the log_dir of a YOLOv3 whose detections are many; what they are of is no matter."""
    mx.random.seed(0)
    np.random.seed(0)
    config = configuration(
        YOLOv3Config,
        {
            "log_dir": str(folder),
            "gpus": [],
            "model": {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": list(SIZE)},
            "train": {"pretrained_base": False},
        },
    )
    task = YOLOv3Task(config)
    model = task.build(NAMES, [mx.cpu()], None)
    settle(model.network)
    rng = np.random.default_rng(0)
    noise = mx.nd.array(rng.uniform(-2, 2, (1, 3, SIZE[1], SIZE[0])))
    spread = float(model.network.predictions(mx.nd, noise).asnumpy()[..., :4].std())
    for layer in head_layers(model.network):
        layer.weight.set_data(layer.weight.data() * (2 / spread))
        layer.bias.set_data(layer.bias.data() * 0.3)
    export_model(model, task, folder, {"name": "mAP", "value": None, "epoch": None}, {})
    compute = DeviceInference(model.inference_block(), [mx.cpu()])
    predictor = Predictor(task.resize, SIZE, compute, task.decoder(model))
    pixels = rng.integers(0, 256, (2, SIZE[1], SIZE[0], 3)).astype(np.uint8)
    images = Images(["a", "b"], [(pixels, np.tile(np.eye(2, 3), (2, 1, 1)))], SIZE)
    paths, problems = export_onnx(folder, {PLAIN: predictor}, images)
    assert (len(paths), problems) == (2, [])


def objects(model: Path, out: Path, engine: str, python: Path | None = None) -> Objects:
    """What `common.predict` finds on the photo; python: of another environment, in a process of which it runs."""
    words = [model, PHOTO, "--out", out, "--engine", engine, "--score", SCORE, "--workers", "0"]
    if python:
        output([python, "-m", "common.predict", *words])
    else:
        assert predict([str(word) for word in words]) == 0
    (row,) = json.loads((out / "predictions.json").read_text())["Result"]
    found = [
        (each["predict_class"], float(each["score"]), [float(edge) for edge in each["bbox"].split(", ")])
        for each in row["objects"]
    ]
    assert len(found) > 5
    return found


def agree(wanted: Objects, found: Objects, score: float = 1e-3, edge: float = 0.3) -> None:
    """The same objects, in any order."""
    assert len(found) == len(wanted)
    left = list(found)
    for name, value, box in wanted:
        near = [
            other
            for other in left
            if other[0] == name
            and abs(other[1] - value) < score
            and np.abs(np.subtract(other[2], box)).max() < edge
        ]
        assert near, (name, value, box)
        left.remove(near[0])


def output(command: list[Any]) -> str:
    """What a program prints."""
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(command: list[Any]) -> Objects:
    """The objects that a program prints: name, score and box in a line."""
    rows = [line.split() for line in output(command).splitlines()]
    return [(row[0], float(row[1]), [float(edge) for edge in row[2:]]) for row in rows]
