"""A job trains on labels in any format as on our own: the exported parameters are the same, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from common import convert
from tests.helpers.jobs import SCRIPTS, Ended, config, fit, make_data
from tests.helpers.label_trees import images, text

NAMES = "dark,light"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in our texts and in COCO, YOLO and labelme."""
    folder = make_data(tmp_path_factory.mktemp("data"), 4, 2)
    source = folder / "source"
    source.mkdir()
    for part in ("train", "valid"):
        (source / part).symlink_to(folder / f"boxes_{part}")
    for name in ("coco", "yolo", "labelme"):
        assert convert.main([str(source), str(folder / name), "--to", name, "--classes", NAMES]) == 0
    return folder


def job(data: Path, log_dir: Path, name: str, *options: str) -> Ended:
    values = config("centernet", log_dir, data, epochs=1)
    if name != "txt":
        values["dataset"] |= {"train_dir": f"{name}/train", "valid_dir": f"{name}/valid"}
    return fit(SCRIPTS["centernet"], values, *options)


def digest(ended: Ended) -> str:
    assert ended.status == 0, ended.output
    (file,) = [path for path in ended.log_dir.glob("*-0000.params") if "plain" not in path.name]
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_same_boxes_give_the_same_parameters(data: Path, tmp_path: Path) -> None:
    expected = digest(job(data, tmp_path / "txt", "txt"))
    for name in ("coco", "yolo", "labelme"):
        ended = job(data, tmp_path / name, name)
        assert digest(ended) == expected
        assert f"train: the labels are {name}: " in ended.log()


def test_check_says_which_format_it_reads(data: Path, tmp_path: Path) -> None:
    name = "labelme"
    ended = job(data, tmp_path / name, name, "--check")
    assert ended.status == 0, ended.output
    assert f"train: the labels are {name}: " in ended.output
    assert ended.json("check_report.json")["train"]["format"] == name


def test_a_job_that_cannot_read_its_labels_ends_with_one_line(data: Path, tmp_path: Path) -> None:
    images(tmp_path / "broken" / "train", "a.jpg")
    file = text(tmp_path / "broken" / "train" / "_annotations.coco.json", '{"images": [\n{"id": 1,}]}')
    values = config("yolov3", tmp_path / "out", tmp_path / "broken", epochs=1)
    values["dataset"] = {"data_root": str(tmp_path / "broken"), "train_dir": "train"}
    ended = fit(SCRIPTS["yolov3"], values)
    assert ended.status != 0
    assert f"{file}:2:10: not JSON" in ended.last_line
    assert json.loads((tmp_path / "out" / "status.json").read_text())["state"] == "failed"
