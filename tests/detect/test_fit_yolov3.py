"""A YOLOv3 job as a platform sees it: command line, progress over HTTP, files, endings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.training.checkpoint import read_checkpoint, write_checkpoint
from tests.helpers.detection_jobs import NAMES, subset
from tests.helpers.jobs import ROOT, Ended, free_port
from tests.helpers.jobs import fit as run
from tests.helpers.strangers import outputs, prepared, reopened

pytestmark = pytest.mark.slow

QUICK = {"num_workers": 2, "batch_size": 4, "no_random_shape": True}


def fit(log_dir: Path, config: dict[str, Any], *options: str, **how: Any) -> Ended:
    values = {"log_dir": str(log_dir), "gpus": [], **config}
    return run("detect/fit_yolov3.py", values, *options, **how)


def config(data: Path, **keys: Any) -> dict[str, Any]:
    """A job of seconds."""
    sections: dict[str, dict[str, Any]] = {
        "dataset": {
            "data_root": str(data),
            "train_dir": "detect_train",
            "valid_dir": "detect_valid",
            "classes": NAMES,
        },
        "model": {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [96, 64]},
        "train": {**QUICK, "epochs": 2},
        "valid": {"score_thresh": 0.01},
        "export": {"onnx": False},
    }
    for path, value in keys.items():
        section, _, key = path.partition("__")
        sections[section][key] = value
    return sections


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job that the tests below look at."""
    return fit(
        tmp_path_factory.mktemp("job") / "out",
        config(data, train__epochs=6, train__lr=0.1, valid__interval=3),
        linger=1,
        polled=True,
        fresh=True,
    )


def test_a_whole_job_ends_well_and_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        "estimator.log",
        "yolo3_mobilenet1.0_custom-symbol.json",
        "yolo3_mobilenet1.0_custom-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "data_report.json",
        "status.json",
    }
    assert "test_data_result.json" not in names
    assert not [name for name in names if name.endswith(".part")]
    status = job.json("status.json")
    assert status["state"] == "finished"
    assert status["error"] is None
    assert (status["epoch"], status["epochs"]) == (5, 6)
    assert status["best_metric"]["name"] == "mAP"
    advice = {piece["code"]: piece["text"] for piece in status["advice"]}
    assert "4 validation images" in advice["few_validation_images"]
    assert "10 training images" in advice["few_images"]
    for text in advice.values():
        assert text in job.log()
        assert text.split(":")[0].split("'")[0] in (job.log_dir / "report.html").read_text()


def test_progress_is_answered_soon_and_only_ever_grows(job: Ended) -> None:
    assert job.polls, job.output
    for (_, before), (_, after) in zip(job.polls, job.polls[1:], strict=False):
        assert after[: len(before)] == before
    points = job.polls[-1][1]
    steps = [point[1] for point in points]
    assert sorted(set(steps)) == [1, 2, 10, 20, 30]
    assert steps == sorted(steps)
    for step in set(steps):
        fractions = [fraction for _, number, fraction in points if number == step]
        assert fractions[0] == 0.0
        assert fractions[-1] == 1.0
        assert fractions == sorted(fractions)


def test_the_result_file_has_the_form_that_platforms_read(job: Ended, data: Path) -> None:
    result = job.json("valid_data_result.json")
    assert [next(iter(entry)) for entry in result["AP"]] == [*NAMES, "mAP"]
    assert all(isinstance(value, str) for entry in result["AP"] for value in entry.values())
    images = sorted(str(path) for path in (data / "detect_valid").glob("*.jpg"))
    assert [entry["image"] for entry in result["Result"]] == images
    for entry in result["Result"]:
        for found in entry["objects"]:
            assert set(found) == {"predict_class", "id", "score", "bbox"}
            assert all(isinstance(value, str) for value in found.values())
            x1, y1, x2, y2 = (float(value) for value in found["bbox"].split(", "))
            assert 0 <= x1 < x2 <= 640
            assert 0 <= y1 < y2 <= 480


def test_the_exported_model_gives_the_boxes_of_the_result_file(job: Ended) -> None:
    card = job.json("model.json")
    entry = job.json("valid_data_result.json")["Result"][0]
    height, width = cv2.imread(entry["image"]).shape[:2]
    pixels, back = prepared(card, entry["image"])
    ids, scores, boxes = (output[0] for output in outputs(job.log_dir, card, pixels))
    corners = boxes.reshape(-1, 2, 2) @ back[:, :2].T + back[:, 2]
    corners = np.clip(corners, 0, (width, height)).reshape(-1, 4)
    assert entry["objects"]
    for found in entry["objects"]:
        box = np.array([float(value) for value in found["bbox"].split(", ")])
        same = (np.abs(corners - box).max(1) < 0.02) & (ids[:, 0] == int(found["id"]))
        assert np.abs(scores[same, 0] - float(found["score"])).min() < 1e-4


def test_the_program_of_the_page_finds_the_objects_of_the_result_file(job: Ended) -> None:
    for entry in job.json("valid_data_result.json")["Result"][:2]:
        objects = entry["objects"]
        lowest = float(objects[min(9, len(objects) - 1)]["score"]) - 0.001
        command = [sys.executable, "docs/detect.py", str(job.log_dir), entry["image"], str(lowest)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        for wanted, (name, score, *box) in zip(objects[:5], lines, strict=False):
            assert name == wanted["predict_class"]
            assert float(score) == pytest.approx(float(wanted["score"]), abs=0.01)
            corners = [float(value) for value in wanted["bbox"].split(", ")]
            np.testing.assert_allclose(np.clip(np.array(box, float), 0, [640, 480] * 2), corners, atol=2)


def test_the_model_opened_from_its_folder_gives_the_rows_of_the_result_file(job: Ended) -> None:
    written, again = reopened(job.log_dir)
    assert written
    assert again == [{key: row[key] for key in again[0]} for row in written]


def test_the_checkpoint_is_plain_data_with_all_that_it_should_hold(job: Ended) -> None:
    checkpoint = read_checkpoint(job.log_dir / "best_checkpoint.pkl", "yolov3")
    assert checkpoint["classes"] == NAMES
    assert checkpoint["model"]["base_network"] == "mobilenet1.0"
    assert checkpoint["configuration"]["train"]["epochs"] == 6
    assert checkpoint["metric"]["name"] == "mAP"
    assert checkpoint["epoch"] in (2, 5)
    assert "EarlyStopping" in checkpoint["hooks"]
    momentum = checkpoint["optimizer"]["states"]
    assert len(momentum) > 100
    assert all(np.isfinite(value).all() for value in checkpoint["parameters"].values())


def test_the_data_report_counts_every_class(job: Ended) -> None:
    report = job.json("data_report.json")
    assert report["train"]["samples"] == 10
    assert report["train"]["classes"]["RBC"]["objects"] > 50
    assert report["valid"]["left_out"] == []


def test_the_same_seed_gives_the_same_parameters_with_any_number_of_workers(
    tmp_path: Path, data: Path
) -> None:
    def parameters(name: str, **keys: Any) -> dict[str, np.ndarray]:
        ended = fit(tmp_path / name, config(data, train__epochs=1, **keys))
        assert ended.status == 0, ended.output
        return read_checkpoint(tmp_path / name / "best_checkpoint.pkl", "yolov3")["parameters"]

    first, again = parameters("a"), parameters("b", train__num_workers=0)
    assert all((first[name] == again[name]).all() for name in first)


def test_iterative_training_keeps_what_is_known_of_the_classes(
    job: Ended, tmp_path: Path, data: Path
) -> None:
    for image in (data / "detect_train").glob("*.txt"):
        assert "3," not in image.read_text().split("\n")[0][:2]
    wanted = config(
        data, dataset__classes=["WBC", "RBC", "Platelets", "bacterium"], train__lr=1e-12, train__epochs=1
    )
    wanted["model"] = {"base_network": "no such network"}  # has no effect with --load
    ended = fit(tmp_path / "out", wanted, "--load", str(job.log_dir / "best_checkpoint.pkl"))
    assert ended.status == 0, ended.output
    assert "Classes known from before: WBC, RBC, Platelets" in ended.log()
    given = ended.json("model.json")["input"]
    assert (given["width"], given["height"]) == (96, 64)  # the checkpoint's
    before = read_checkpoint(job.log_dir / "best_checkpoint.pkl", "yolov3")
    after = read_checkpoint(tmp_path / "out" / "best_checkpoint.pkl", "yolov3")
    assert after["classes"] == ["WBC", "RBC", "Platelets", "bacterium"]
    name = "yolo_outputs.0.prediction.bias"
    old, new = before["parameters"][name].reshape(3, 8), after["parameters"][name].reshape(3, 9)
    np.testing.assert_allclose(new[:, :5], old[:, :5], atol=1e-5)
    np.testing.assert_allclose(new[:, [6, 5, 7]], old[:, 5:8], atol=1e-5)


def test_another_tasks_checkpoint_is_refused_in_one_line(tmp_path: Path, data: Path) -> None:
    write_checkpoint(tmp_path / "other.pkl", "landmark", {"epoch": 1})
    ended = fit(tmp_path / "out", config(data), "--load", str(tmp_path / "other.pkl"))
    assert ended.status == 3
    assert "'landmark'" in ended.last_line
    assert ended.last_line in ended.log().strip().splitlines()[-1]
    assert ended.json("status.json")["error"]["kind"] == "checkpoint"
    assert "Traceback" not in ended.output


def test_all_mistakes_of_a_configuration_are_told_at_once(tmp_path: Path, data: Path) -> None:
    wrong = config(
        data,
        train__epochs=0,
        train__lr="fast",
        train__batchsize=3,
        model__data_shape=[1],
        valid__metric="coco",
    )
    ended = fit(tmp_path / "out", wrong)
    assert ended.status == 2
    for key in ("train.epochs", "train.lr", "train.batch_size", "model.data_shape", "valid.metric"):
        assert key in ended.output
    assert "Traceback" not in ended.output
    assert ended.json("status.json")["state"] == "failed"
    assert ended.json("status.json")["error"]["kind"] == "configuration"


def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_loaded(tmp_path: Path, data: Path) -> None:
    ended = fit(tmp_path / "out", {**config(data), "gpus": [97]})
    assert ended.status == 1
    assert "97" in ended.last_line
    assert "gpus: []" in ended.last_line
    assert "images" not in ended.log()


def test_a_folder_that_is_named_and_not_there_is_an_error(tmp_path: Path, data: Path) -> None:
    ended = fit(tmp_path / "out", config(data, dataset__test_dir="nowhere"))
    assert ended.status == 3
    assert "dataset.test_dir" in ended.last_line
    assert str(data / "nowhere") in ended.last_line


def test_missing_pretrained_parameters_are_named_with_file_and_folder(tmp_path: Path, data: Path) -> None:
    environment = {
        "MXNET_HOME": str(tmp_path / "home"),
        "MXNET_GLUON_REPO": f"http://127.0.0.1:{free_port()}/",
    }
    ended = fit(tmp_path / "out", config(data, model__use_pretrained=True), environment=environment)
    assert ended.status == 1
    assert "yolo3_mobilenet1.0_coco-66dbbae6.params" in ended.last_line
    assert str(tmp_path / "home" / "models") in ended.last_line


def test_bad_samples_are_left_out_and_reported_and_the_job_goes_on(tmp_path: Path) -> None:
    folder = subset(tmp_path / "data", train=8, valid=2)
    train = folder / "detect_train"
    images = sorted(train.glob("*.jpg"))
    images[0].write_bytes(images[0].read_bytes()[:5000])
    images[1].with_suffix(".txt").unlink()
    images[2].with_suffix(".txt").write_text("0,1,2,three,4\n")
    images[3].with_suffix(".txt").write_text("0，10，10，60，60\n1,20,20,9999,90\n")
    images[4].with_suffix(".txt").write_text("-1，-1，-1，-1，-1")
    images[5].rename(images[5].with_suffix(".JPG"))
    ended = fit(tmp_path / "out", config(folder, train__epochs=1))
    assert ended.status == 0, ended.output
    report = ended.json("data_report.json")["train"]
    assert report["samples"] == 4
    left_out = {Path(entry["file"]).name: entry for entry in report["left_out"]}
    assert set(left_out) == {
        images[0].name,
        images[1].with_suffix(".txt").name,
        images[2].with_suffix(".txt").name,
    }
    assert left_out[images[2].with_suffix(".txt").name]["line"] == 1
    assert [entry["line"] for entry in report["clipped"]] == [2]
    assert [Path(entry["file"]).name for entry in report["skipped"]] == [images[5].with_suffix(".JPG").name]


def test_a_class_id_beyond_the_classes_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    folder = subset(tmp_path / "data", train=4, valid=2)
    text = sorted((folder / "detect_train").glob("*.txt"))[1]
    text.write_text("0,1,1,50,50\n3,1,1,50,50\n")
    ended = fit(tmp_path / "out", config(folder))
    assert ended.status == 3
    assert f"{text}:2" in ended.last_line
    assert ended.json("status.json")["error"]["kind"] == "data"
