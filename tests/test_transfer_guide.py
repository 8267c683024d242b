"""The transfer guide: its list, its configuration and its commands, one after the other."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.detection_jobs import BLOOD_CELLS
from tests.helpers.jobs import ROOT, free_port

pytest.importorskip("onnxruntime")

GUIDE = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", GUIDE, re.S)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]


def line_of(annotation: Path) -> str:
    """The objects of one of our own texts as the guide's list has them."""
    rows = [line.split(",") for line in annotation.read_text().split()]
    return " ".join(f"{x1},{y1},{x2},{y2},{int(i) + 1}" for i, x1, y1, x2, y2 in rows)


@pytest.mark.slow
def test_every_command_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    photos = sorted((BLOOD_CELLS / "detect_train").glob("*.jpg"))[:8]
    (tmp_path / "boards" / "photos").mkdir(parents=True)
    (tmp_path / "new_photos").mkdir()
    lines = []
    for number, photo in enumerate(photos):
        name = f"IMG_{number:03}.jpg"
        (tmp_path / "boards" / "photos" / name).symlink_to(photo)
        lines.append(f"photos/{name} {line_of(photo.with_suffix('.txt'))}")
    (tmp_path / "boards" / "boards.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "new_photos" / "board.jpg").symlink_to(photos[0])
    (configuration,) = (block for kind, block in BLOCKS if kind == "json")
    values = json.loads(configuration)
    values["model"]["data_shape"] = [64, 64]
    values["train"].update(epochs=1, num_workers=0, batch_size=4)
    (tmp_path / "job.json").write_text(json.dumps(values))
    # Nothing is to be fetched, nor found among the files of whoever runs this.
    environment = {
        **os.environ,
        "MXNET_HOME": str(tmp_path / "nothing"),
        "MXNET_GLUON_REPO": "http://127.0.0.1:9",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        words = shlex.split(command)
        words = [str(ROOT / word) if word.endswith(".py") else word for word in words]
        words[0] = sys.executable
        if words[1].endswith("fit_ssd.py") and "--check" not in words:
            words += ["--linger", "0", "--port", str(free_port())]
            if "--load" in words:
                words += ["--set", "train.epochs=1"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Skipped" not in done.stderr, f"{command}\n{done.stderr}"
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert found["model"]["classes"] == values["dataset"]["classes"]
    assert (tmp_path / "found" / "pictures").is_dir()
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert "mAP" in judged["figures"]
    log = (tmp_path / "out" / "boards" / "estimator.log").read_text()
    assert "came with the project" in log
    for name in ("ssd_mobilenetv2_1.0_lite_custom.onnx", "ssd_mobilenetv2_1.0_lite_custom-raw.onnx"):
        assert (tmp_path / "out" / "boards2" / name).is_file()
