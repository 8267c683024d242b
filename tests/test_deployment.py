"""The programs of docs/deploy.md find what the model finds, with the ONNX file and what it says of itself alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks.runtimes import by_opencv
from common.trained import read_card
from tests.helpers.deployed_models import PHOTO, SCORE, SIZE, Objects, agree, objects, printed, write_job
from tests.helpers.detection_jobs import ROOT


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's log_dir."""
    folder = tmp_path_factory.mktemp("job")
    write_job(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """What MXNet finds on the photo."""
    return objects(job, tmp_path_factory.mktemp("out") / "mxnet", "mxnet")


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


@pytest.mark.slow
def test_cpp_and_opencv(job: Path, wanted: Objects, tmp_path: Path) -> None:
    options = _opencv_for_cpp()
    if options is None:
        pytest.skip("g++ or OpenCV's headers (libopencv-dev) are not installed")
    program = tmp_path / "detect"
    source = ROOT / "docs" / "detect_opencv.cpp"
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", "-o", program, source, *options], check=True)
    raw = next(job.glob("*-raw.onnx"))
    agree(wanted, printed([program, raw, PHOTO, SCORE]))


def test_opencv_4_takes_the_raw_file_and_not_the_one_with_suppression(job: Path) -> None:
    if not cv2.__version__.startswith("4."):
        pytest.skip("OpenCV 5 takes both")
    data = np.zeros((1, 3, SIZE[1], SIZE[0]), np.float32)
    (boxes, scores) = by_opencv(next(job.glob("*-raw.onnx")), ["boxes", "scores"])(data)
    assert boxes.shape[1] == scores.shape[1]
    with pytest.raises(cv2.error):
        by_opencv(read_card(job).onnx_file(), ["ids", "scores", "boxes"])(data)
