"""A classification job as a platform sees it: files, results, iterative training, errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.training.checkpoint import read_checkpoint
from tests.helpers.classification_jobs import HEIGHT, WIDTH, draw, keys
from tests.helpers.jobs import Ended, fit
from tests.helpers.strangers import outputs, prepared, reopened

SCRIPT = "classification/fit_classification.py"
NAMES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "train", NAMES, 6, seed=1)
    draw(folder / "valid", NAMES, 3, seed=2)
    draw(folder / "test", NAMES[1:], 2, seed=3)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job that the tests below look at."""
    more = {"dataset__test_dir": "test", "train__epochs": 25, "train__lr": 0.01}
    return fit(SCRIPT, keys(data, tmp_path_factory.mktemp("job") / "out", **more), fresh=True)


def test_a_whole_job_learns_and_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        "estimator.log",
        "classifier_mobilenet0.25-symbol.json",
        "classifier_mobilenet0.25-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "test_data_result.json",
        "data_report.json",
    }
    assert job.json("status.json")["state"] == "finished"
    assert float(job.json("valid_data_result.json")["Accuray"]) > 0.6


@pytest.mark.parametrize(("part", "count"), [("valid", 9), ("test", 4)])
def test_the_result_file_has_the_form_that_platforms_read(job: Ended, part: str, count: int) -> None:
    result = job.json(f"{part}_data_result.json")
    assert isinstance(result["Accuray"], str)
    rows = result["Result"]
    assert len(rows) == count
    for row in rows:
        assert row["class"] == NAMES[row["id"]]
        assert row["groundtruth"] == Path(row["image"]).parent.name
        assert row["result"] == str(row["class"] == row["groundtruth"])
        assert 1 / 3 <= row["score"] <= 1
    assert float(result["Accuray"]) == pytest.approx(np.mean([row["result"] == "True" for row in rows]))
    assert result["Top5Accuracy"] == 1.0
    counts = np.array(result["ConfusionMatrix"]["counts"])
    assert counts.sum() == count
    assert counts.trace() / count == pytest.approx(float(result["Accuray"]))
    for index, entry in enumerate(result["Classes"]):
        assert (entry["class"], entry["samples"]) == (NAMES[index], counts[index].sum())
        assert (entry["recall"] is None) == (entry["samples"] == 0)


def test_the_exported_model_gives_the_scores_of_the_result_file(job: Ended) -> None:
    card = job.json("model.json")
    assert (card["input"]["width"], card["input"]["height"]) == (WIDTH, HEIGHT)
    assert card["classes"] == NAMES
    for row in job.json("valid_data_result.json")["Result"]:
        (logits,) = outputs(job.log_dir, card, prepared(card, row["image"])[0])
        scores = np.exp(logits[0]) / np.exp(logits[0]).sum()
        assert scores.argmax() == row["id"]
        assert scores.max() == pytest.approx(row["score"], rel=1e-3)


def test_the_model_opened_from_its_folder_gives_the_rows_of_the_result_file(job: Ended) -> None:
    written, again = reopened(job.log_dir)
    assert written
    assert again == [{key: row[key] for key in again[0]} for row in written]


@pytest.mark.slow
def test_iterative_training_keeps_what_is_known_of_the_classes(job: Ended, tmp_path: Path) -> None:
    draw(tmp_path / "data" / "train", ["white", "red", "blue"], 2)
    more: dict[str, Any] = {
        "train__lr": 1e-9,
        "train__epochs": 6,
        "train__resume_epoch": 5,
        "dataset__valid_dir": None,
        "train__batch_size": 64,
    }
    values = keys(tmp_path / "data", tmp_path / "out", **more)
    values["model"] = {"base_network": "no such network"}  # has no effect with --load
    ended = fit(SCRIPT, values, "--load", str(job.log_dir / "best_checkpoint.pkl"))
    assert ended.status == 0, ended.output
    assert "Classes known from before: blue, red" in ended.log()
    assert "Training: epochs 5 to 5, 1 batches" in ended.log()  # fewer images than a batch
    assert not (tmp_path / "out" / "valid_data_result.json").exists()
    before = read_checkpoint(job.log_dir / "best_checkpoint.pkl", "classification")
    after = read_checkpoint(tmp_path / "out" / "best_checkpoint.pkl", "classification")
    assert after["classes"] == ["blue", "red", "white"]
    assert after["model"]["base_network"] == "mobilenet0.25"
    np.testing.assert_allclose(
        after["parameters"]["output.weight"][:2], before["parameters"]["output.weight"][[0, 2]], atol=1e-6
    )


def test_a_class_that_training_does_not_have_is_an_error_that_names_it(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    draw(tmp_path / "data" / "valid", ["red"], 1)
    draw(tmp_path / "data" / "valid", ["white"], 1)
    ended = fit(SCRIPT, keys(tmp_path / "data", tmp_path / "out"))
    assert ended.status == 3
    assert "'white'" in ended.last_line
    assert str(tmp_path / "data" / "valid" / "white") in ended.last_line
    assert ended.json("status.json")["error"]["kind"] == "data"


@pytest.mark.slow
def test_boxes_are_samples_of_their_own(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    draw(tmp_path / "data" / "valid", ["red"], 2)
    folder = tmp_path / "data" / "valid" / "red"
    (folder / "000.txt").write_text("0，2，3，20，30\n5,10,10,39,900\n")
    (folder / "001.txt").write_text("0,9,9,9,20\n")
    ended = fit(SCRIPT, keys(tmp_path / "data", tmp_path / "out", train__epochs=1))
    assert ended.status == 0, ended.output
    rows = ended.json("valid_data_result.json")["Result"]
    height = cv2.imread(str(folder / "000.png")).shape[0]
    boxes = [[float(edge) for edge in row["bbox"].split(",")] for row in rows]
    assert boxes == [[2, 3, 20, 30], [10, 10, 39, height]]
    report = ended.json("data_report.json")["valid"]
    assert "001.txt" in {Path(entry["file"]).name for entry in report["left_out"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {
            "train__mixup": True,
            "train__mixup_off_epoch": 1,
            "train__label_smoothing": True,
            "train__no_wd": True,
        },
        {"train__mode": "imperative", "train__optimizer": "sgd", "train__lr_mode": "cosine"},
        {"model__base_network": "resnet18_v1", "model__use_gn": True, "train__optimizer": "adamw"},
        {"train__teacher": "CHECKPOINT", "train__hard_weight": 0.3, "train__temperature": 4},
        {"dataset__valid_dir": None, "dataset__valid_size": 0.2, "dataset__test_size": 0.2},
    ],
)
def test_jobs_of_many_kinds_end_well(job: Ended, data: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    teacher = str(job.log_dir / "best_checkpoint.pkl")
    more = {key: teacher if value == "CHECKPOINT" else value for key, value in more.items()}
    ended = fit(SCRIPT, keys(data, tmp_path / "out", **more))
    assert ended.status == 0, ended.output
    assert ended.json("status.json")["state"] == "finished"
    assert 0 <= float(ended.json("valid_data_result.json")["Accuray"]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_default_rate_trains_from_scratch(data: Path, tmp_path: Path, optimizer: str) -> None:
    more = {"train__lr": 0.035, "train__epochs": 50, "train__optimizer": optimizer}
    ended = fit(SCRIPT, keys(data, tmp_path / "out", **more))
    assert ended.status == 0, ended.output
    assert float(ended.json("valid_data_result.json")["Accuray"]) > 0.8
