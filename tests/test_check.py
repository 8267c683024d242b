"""`--check` reads everything, trains nothing, and says whether the job could start."""

from __future__ import annotations

import hashlib
import json
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classification.config import ClassificationConfig
from common.check import CHECK_REPORT
from common.job import main
from common.networks import pretrained
from common.reporting.lock import lock
from detect.config import YOLOv3Config
from landmark.config import LandmarkConfig
from reid.config import ReIDConfig

SMALL = {"base_network": "mobilenet0.25", "use_pretrained": False}


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def damage(path: Path) -> None:
    """Bytes in the middle that are no picture, with the end where it belongs: only decoding tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff\xd0" * 20
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes in train and valid, and no pretrained parameters anywhere."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MXNET_GLUON_REPO", (tmp_path / "repository").as_uri())
    for number in range(12):
        part, name = "valid" if number > 7 else "train", "ant" if number % 2 else "bee"
        picture(tmp_path / "data" / part / name / f"{number}.jpg", number)
    return tmp_path


def check(root: Path, *options: str, model: Any = SMALL, gpus: Any = (), **train: Any) -> int:
    config = {
        "log_dir": str(root / "out"),
        "dataset": {"data_root": str(root / "data"), "train_dir": "train", "valid_dir": "valid"},
        "gpus": list(gpus),
        "model": model,
        "train": {"input_width": 32, "input_height": 32, "num_workers": 1, **train},
    }
    (root / "job.json").write_text(json.dumps(config))
    command = ["--config", str(root / "job.json"), "--check", *options]
    return main(ClassificationConfig, "classification.task:ClassificationTask", "", command)


def report(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "out" / CHECK_REPORT).read_text())
    return content


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_what_there_is_is_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root) == 0
    found = report(root)
    assert found["can_start"] is True
    assert found["train"]["samples_by_class"] == {"ant": 4, "bee": 4}
    assert found["valid"]["samples"] == 4
    assert found["train"]["width"] == {"min": 50.0, "median": 50.0, "max": 50.0}
    assert found["identical_images"] == found["pretrained"] == found["reasons"] == []
    said = capsys.readouterr().out
    assert "samples by class: ant 4, bee 4" in said
    assert "width (pixels): 50 to 50, median 50" in said


def test_nothing_but_the_report_is_written_and_no_port_is_opened(root: Path) -> None:
    out = root / "out"
    out.mkdir()
    names = (
        "estimator.log",
        "status.json",
        "data_report.json",
        "valid_data_result.json",
        "best_checkpoint.pkl",
    )
    names += (
        "model.json",
        "a-symbol.json",
        "a-0000.params",
        "training_state.pkl",
        "events.out.tfevents.1.host",
    )
    for name in names:
        (out / name).write_text(f"of an earlier run: {name}")
    with socket.create_server(("", 0)) as taken, lock(out):  # a job runs there
        assert check(root, "--port", str(taken.getsockname()[1])) == 0
        assert {path.name for path in out.iterdir()} == {*names, CHECK_REPORT, ".lock"}
    for name in names:
        assert (out / name).read_text() == f"of an earlier run: {name}"


def test_every_image_is_decoded_to_its_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(root / "data" / "train" / "ant" / "1.jpg")
    assert check(root) == 0
    found = report(root)["train"]
    assert [entry["file"] for entry in found["left_out"]] == [str(root / "data" / "train" / "ant" / "1.jpg")]
    assert found["samples_by_class"] == {"ant": 3, "bee": 4}
    assert found["samples"] == 7
    assert "ant/1.jpg" in capsys.readouterr().err


def test_a_set_of_which_nothing_can_be_decoded_is_a_reason(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "data" / "valid").rglob("*.jpg"):
        damage(path)
    assert check(root) == 3
    assert "no image of the valid set can be decoded" in last_line(capsys)
    assert report(root)["reasons"][0]["kind"] == "data"


def test_the_same_image_in_two_sets_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = root / "data"
    content = (data / "train" / "ant" / "1.jpg").read_bytes()
    (data / "valid" / "bee" / "copy.jpg").write_bytes(content)
    (data / "train" / "bee" / "again.jpg").write_bytes((data / "train" / "bee" / "2.jpg").read_bytes())
    assert check(root) == 0
    assert report(root)["identical_images"] == [
        {
            "files": {
                "train": [str(data / "train" / "ant" / "1.jpg")],
                "valid": [str(data / "valid" / "bee" / "copy.jpg")],
            },
            "annotated_differently": True,
        },
        {
            "files": {"train": [str(data / "train" / "bee" / name) for name in ("2.jpg", "again.jpg")]},
            "annotated_differently": False,
        },
    ]
    told = capsys.readouterr().err
    assert "1 images are in more than one set, byte for byte" in told
    assert "copy.jpg" in told


def test_missing_parameters_are_a_reason_that_names_the_file(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, model={"base_network": "mobilenet0.25"}) == 1
    told = last_line(capsys)
    assert "put mobilenet0.25-f0046a3d.params into" in told
    assert str(root / "home" / "models") in told
    (entry,) = report(root)["pretrained"]
    assert entry["state"].startswith("missing")


def test_parameters_that_can_be_fetched_are_no_reason_and_are_not_fetched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha1 = hashlib.sha1(b"x").hexdigest()
    monkeypatch.setattr(pretrained, "published_hashes", lambda: {"mobilenet0.25": sha1})
    folder = root / "repository" / "gluon" / "models"
    folder.mkdir(parents=True)
    zipfile.ZipFile(folder / f"mobilenet0.25-{sha1[:8]}.zip", "w").close()
    assert check(root, model={"base_network": "mobilenet0.25"}) == 0
    assert report(root)["pretrained"][0]["state"] == "to be fetched"
    assert not (root / "home").exists()


def test_parameters_that_do_not_fit_are_a_reason(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = root / "home" / "models" / "mobilenet0.25.params"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"no parameters")
    assert check(root, model={"base_network": "mobilenet0.25"}) == 3
    assert str(own) in last_line(capsys)


def test_a_device_that_is_not_there_is_a_reason_and_the_data_is_read_nevertheless(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, gpus=[77]) == 1
    assert last_line(capsys).startswith("gpus: [77]")
    assert report(root)["train"]["samples"] == 8
    assert report(root)["can_start"] is False


def test_a_checkpoint_of_another_kind_is_a_reason(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "other.pkl").write_bytes(b"no checkpoint")
    assert check(root, "--load", str(root / "other.pkl")) == 3
    assert "other.pkl" in last_line(capsys)


def test_data_that_no_job_can_use_is_a_reason(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(root / "data" / "valid" / "wasp" / "0.jpg", 99)
    assert check(root) == 3
    assert "the class folder 'wasp' is not in the training set" in last_line(capsys)
    assert report(root)["reasons"][0]["kind"] == "data"


def test_warnings_stand_once_more_at_the_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data" / "train" / "ant" / "again.jpg").write_bytes(
        (root / "data" / "train" / "ant" / "1.jpg").read_bytes()
    )
    for _ in range(2):  # and not those of an earlier check in the same process
        assert check(root) == 0
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if "Once more" in line] == lines[-1:]
        assert lines[-1].endswith(
            "Once more, warning 1 of 1: 1 images are in a set more than once, byte for byte"
        )


def test_a_wrong_configuration_is_status_2_and_leaves_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, "--set", "train.epoch=1") == 2
    assert "train.epoch" in last_line(capsys)
    assert not (root / "out").exists()


def test_a_log_dir_that_cannot_be_made_is_a_reason(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "file").touch()
    assert check(root, "--set", f"log_dir={root / 'file' / 'out'}") == 1
    assert str(root / "file") in last_line(capsys)


@pytest.mark.parametrize(
    ("config", "task", "text", "figure"),
    [
        (YOLOv3Config, "detect.yolov3.task:YOLOv3Task", "0,5,5,30,30\n", ("classes", "class0", "objects")),
        (LandmarkConfig, "landmark.task:LandmarkTask", "1,2\n30,32\n", ("width_of_the_points", "max")),
        (ReIDConfig, "reid.task:ReIDTask", None, ("samples_by_class", "ant")),
    ],
)
def test_every_task_can_be_checked(
    config: Any, task: str, text: str | None, figure: tuple[str, ...], root: Path
) -> None:
    if text:
        for path in (root / "data").rglob("*.jpg"):
            path.with_suffix(".txt").write_text(text)
    joints = {"num_joints": 2} if config is LandmarkConfig else {}
    model = {"base_network": "mobilenet1.0", "use_pretrained": False}
    job = {
        "log_dir": str(root / "out"),
        "dataset": {"data_root": str(root / "data"), "train_dir": "train", "valid_size": 0.5, **joints},
        "gpus": [],
        "model": {**model, "data_shape": 64} if config is YOLOv3Config else model,
        "train": {"num_workers": 0},
    }
    (root / "job.json").write_text(json.dumps(job))
    assert main(config, task, "", ["--config", str(root / "job.json"), "--check"]) == 0
    value = report(root)["train"]
    for key in figure:
        value = value[key]
    assert value > 0
    assert report(root)["valid"]["samples"] == 4
