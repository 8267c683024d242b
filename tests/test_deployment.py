"""The programs of docs/deploy.md find what the model finds, with the ONNX file and what it says of itself alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import mxnet as mx

from benchmarks.runtimes import by_opencv
from common.config.sections import configuration
from common.engine.graph import settle
from common.engine.inference import DeviceInference
from common.export.model_files import export_model
from common.export.onnx.files import PLAIN, Images, export_onnx
from common.predict import main as predict
from common.predictor import Predictor
from common.trained import read_card
from detect.config import YOLOv3Config
from detect.yolov3.network import head_layers
from detect.yolov3.task import YOLOv3Task
from tests.helpers.detection_jobs import BLOOD_CELLS, NAMES, ROOT

SIZE = (192, 160)
SCORE = 0.75
PHOTO = sorted((BLOOD_CELLS / "detect_valid").glob("*.jpg"))[0]
Objects = list[tuple[str, float, list[float]]]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log_dir of a YOLOv3 whose detections are many; what they are of is no matter."""
    folder = tmp_path_factory.mktemp("job")
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
    return folder


@pytest.fixture(scope="module")
def wanted(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """What MXNet finds on the photo."""
    return objects(job, tmp_path_factory.mktemp("out") / "mxnet", "mxnet")


def objects(model: Path, out: Path, engine: str) -> Objects:
    status = predict(
        [
            str(model),
            str(PHOTO),
            "--out",
            str(out),
            "--engine",
            engine,
            "--score",
            str(SCORE),
            "--workers",
            "0",
        ]
    )
    assert status == 0
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


def printed(command: list[Any]) -> Objects:
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(row[0], float(row[1]), [float(edge) for edge in row[2:]]) for row in rows]


def test_predict_gives_the_same_by_both_engines(job: Path, wanted: Objects, tmp_path: Path) -> None:
    agree(wanted, objects(job, tmp_path / "onnx", "onnx"), 1e-4, 0.01)
    agree(wanted, objects(read_card(job).onnx_file(), tmp_path / "file", "auto"), 1e-4, 0.01)


def test_python_and_onnxruntime(job: Path, wanted: Objects) -> None:
    agree(wanted, printed([sys.executable, "docs/detect_onnx.py", read_card(job).onnx_file(), PHOTO, SCORE]))


def test_python_and_opencv(job: Path, wanted: Objects) -> None:
    raw = next(job.glob("*-raw.onnx"))
    agree(wanted, printed([sys.executable, "docs/detect_opencv.py", raw, PHOTO, SCORE, job / "model.json"]))


def _opencv_for_cpp() -> list[str] | None:
    """Options for the compiler; None where it or OpenCV's headers are not installed."""
    if not (shutil.which("g++") and shutil.which("pkg-config")):
        return None
    asked = subprocess.run(["pkg-config", "--cflags", "--libs", "opencv4"], capture_output=True, text=True)
    return asked.stdout.split() if asked.returncode == 0 else None


def test_cpp_and_opencv(job: Path, wanted: Objects, tmp_path: Path) -> None:
    options = _opencv_for_cpp()
    if options is None:
        pytest.skip("g++ or OpenCV's headers (libopencv-dev) are not installed")
    program = tmp_path / "detect"
    source = ROOT / "docs" / "detect_opencv.cpp"
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", "-o", program, source, *options], check=True)
    raw = next(job.glob("*-raw.onnx"))
    found = printed([program, raw, PHOTO, SCORE, *SIZE])
    agree(wanted, [(NAMES[int(number)], score, box) for number, score, box in found])


def test_opencv_4_takes_the_raw_file_and_not_the_one_with_suppression(job: Path) -> None:
    if not cv2.__version__.startswith("4."):
        pytest.skip("OpenCV 5 takes both")
    data = np.zeros((1, 3, SIZE[1], SIZE[0]), np.float32)
    (boxes, scores) = by_opencv(next(job.glob("*-raw.onnx")), ["boxes", "scores"])(data)
    assert boxes.shape[1] == scores.shape[1]
    with pytest.raises(cv2.error):
        by_opencv(read_card(job).onnx_file(), ["ids", "scores", "boxes"])(data)
