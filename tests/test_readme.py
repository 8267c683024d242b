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
    made = subset(tmp_path / "made", train=10, valid=2)
    (tmp_path / "DATA").mkdir()
    (made / "detect_train").rename(tmp_path / "DATA" / "train")
    (made / "detect_valid").rename(tmp_path / "DATA" / "test")
    (tmp_path / "DATA" / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (tmp_path / "new_photos").mkdir()
    for name in ("photo.jpg", "new_photos/1.jpg"):
        shutil.copy(next((tmp_path / "DATA" / "test").glob("*.jpg")), tmp_path / name)
    environment = {**os.environ, "MXNET_HOME": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(script: str, *options: str) -> None:
        run(str(ROOT / script), *options, "--port", str(free_port()), "--linger=0")

    suggest, fit, predict = commands("README.md")
    assert suggest[-2:] == ["--minutes", "10"]
    # Half a minute makes the same way, and no good model.
    printed = run(*suggest[:-1], "0.5").splitlines()[-1]
    _, script, *options = shlex.split(printed)
    assert options == fit[1:]
    train(script, *options, "--set", "train.minutes=0", "--set", "train.epochs=2")
    run(*predict)
    predictions = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    assert [Path(row["image"]).name for row in predictions["Result"]] == ["photo.jpg"]
    assert [path.name for path in (tmp_path / "predicted" / "pictures").iterdir()] == ["photo.jpg"]
    for name in ("valid_data_result.json", "data_report.json", "model.json", "report.html"):
        assert (tmp_path / "out" / "cats" / name).is_file()
    same, evaluate, label, again = commands("docs/predict.md")
    assert same == predict
    run(*evaluate)
    assert (tmp_path / "evaluated" / "evaluation.json").is_file()
    assert (tmp_path / "evaluated" / "report.html").is_file()
    run(*label)
    assert [path.name for path in (tmp_path / "new_labels" / "labels").glob("**/*.json")] == ["1.json"]
    (tmp_path / "new_labels" / "labels" / "1.json").write_text(corrected(tmp_path / "new_labels" / "labels"))
    train(script, *again[1:], "--set", "train.minutes=0", "--set", "train.epochs=1")
    report = json.loads((tmp_path / "out" / "cats2" / "data_report.json").read_text())
    assert report["train"]["format"] == "txt, labelme"
    assert report["train"]["images"] == 11
