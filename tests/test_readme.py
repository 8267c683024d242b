"""The README alone leads a new user from labels to predictions; its commands run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.detection_jobs import NAMES, subset
from tests.helpers.jobs import ROOT, free_port


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.S)


def commands(page: str) -> list[list[str]]:
    lines = [line for kind, block in blocks(page) if not kind for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/python ")]


def corrected(folder: Path) -> str:
    """The labels of 1.json in `folder` with one object, as a person would leave them."""
    content = json.loads((folder / "1.json").read_text())
    box = {"label": NAMES[0], "points": [[10, 10], [60, 60]], "shape_type": "rectangle"}
    return json.dumps({**content, "shapes": [box]})


@pytest.mark.slow
def test_the_first_model_comes_from_the_readme_alone(tmp_path: Path) -> None:
    (text,) = (block for kind, block in blocks("README.md") if kind == "json")
    job = json.loads(text)
    assert job["gpus"] == []  # nothing that `make demo` did without
    data = subset(tmp_path / job["dataset"]["data_root"], train=10, valid=2)
    job["dataset"]["classes"] = NAMES  # the user's own
    (tmp_path / "job.json").write_text(json.dumps(job))
    (data / "detect_valid").rename(data / "detect_test")
    (tmp_path / "new_photos").mkdir()
    for name in ("photo.jpg", "new_photos/1.jpg"):
        shutil.copy(next((data / "detect_test").glob("*.jpg")), tmp_path / name)
    environment = {**os.environ, "MXNET_HOME": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> None:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr

    check, fit, predict = commands("README.md")
    for script, *options in (check, fit):
        assert script == "detect/fit_yolov3.py"
        assert (data / job["dataset"]["train_dir"]).is_dir()
        run(str(ROOT / script), *options, "--set", "train.epochs=1", "--port", str(free_port()), "--linger=0")
    run(*predict)
    predictions = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    assert [Path(row["image"]).name for row in predictions["Result"]] == ["photo.jpg"]
    assert [path.name for path in (tmp_path / "predicted" / "pictures").iterdir()] == ["photo.jpg"]
    for name in ("valid_data_result.json", "data_report.json", "model.json", "report.html"):
        assert (tmp_path / job["log_dir"] / name).is_file()
    same, evaluate, label, again = commands("docs/predict.md")
    assert same == predict
    run(*evaluate)
    assert (tmp_path / "evaluated" / "evaluation.json").is_file()
    assert (tmp_path / "evaluated" / "report.html").is_file()
    run(*label)
    assert [path.name for path in (tmp_path / "new_labels" / "labels").glob("**/*.json")] == ["1.json"]
    (tmp_path / "new_labels" / "labels" / "1.json").write_text(corrected(tmp_path / "new_labels" / "labels"))
    (text,) = (block for kind, block in blocks("docs/predict.md") if kind == "json")
    second = json.loads(text)
    assert second["log_dir"] != job["log_dir"]
    second["dataset"]["classes"] = NAMES
    (tmp_path / "job2.json").write_text(json.dumps(second))
    script, *options = again
    run(str(ROOT / script), *options, "--set", "train.epochs=1", "--port", str(free_port()), "--linger=0")
    report = json.loads((tmp_path / second["log_dir"] / "data_report.json").read_text())
    assert report["train"]["images"] == 11
    assert report["train"]["format"] == "txt, labelme"
