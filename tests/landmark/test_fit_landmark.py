"""A landmark job as a platform sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.data.samples import Sample
from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import Ended, fit
from tests.helpers.landmark_jobs import HEIGHT, JOINTS, WIDTH, draw, keys
from tests.helpers.strangers import outputs, prepared, reopened

pytestmark = pytest.mark.slow

SCRIPT = "landmark/fit_landmark.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "train", 20, seed=0)
    draw(folder / "valid", 6, seed=1)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Ended:
    """One whole job that the tests below look at; its training set is smaller than a batch."""
    return fit(SCRIPT, keys(data, tmp_path_factory.mktemp("job") / "out"), fresh=True)


def _no_other() -> Sample:
    raise AssertionError("an image is seen as it is, with no other one")


def rows_of(result: dict[str, Any], key: str) -> np.ndarray:
    return np.array([[(point["x"], point["y"]) for point in row[key]] for row in result["Result"]])


def test_a_whole_job_leaves_its_files(job: Ended) -> None:
    assert job.status == 0, job.output
    names = {path.name for path in job.log_dir.iterdir()}
    assert names >= {
        "estimator.log",
        "landmark_mobilenet0.25-symbol.json",
        "landmark_mobilenet0.25-0000.params",
        "model.json",
        "best_checkpoint.pkl",
        "valid_data_result.json",
        "data_report.json",
    }
    assert "test_data_result.json" not in names
    assert job.json("status.json")["best_metric"]["name"] == "-RMSE"
    assert "NME=" in (job.log_dir / "estimator.log").read_text()


def test_the_result_file_holds_keypoints_in_pixels_of_the_original_images(job: Ended, data: Path) -> None:
    result = job.json("valid_data_result.json")
    images = sorted(str(path) for path in (data / "valid").glob("*.png"))
    assert [row["image"] for row in result["Result"]] == images
    annotated = np.array([np.loadtxt(path[:-3] + "txt", delimiter=",") for path in images])
    np.testing.assert_allclose(rows_of(result, "groundtruth"), annotated, atol=1e-4)
    difference = rows_of(result, "keypoints") - annotated
    assert result["RMSE"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-6)
    assert job.json("status.json")["best_metric"]["value"] == pytest.approx(-result["RMSE"], rel=1e-4)
    sides = np.ptp(annotated, axis=1)
    nme = np.linalg.norm(difference, axis=2).mean(axis=1) / np.sqrt(sides.prod(axis=1))
    assert result["NME"] == pytest.approx(nme.mean(), rel=1e-6)


def test_the_exported_model_gives_the_keypoints_of_the_result_file(job: Ended) -> None:
    card = job.json("model.json")
    shape = card["input"]["width"], card["input"]["height"]
    assert shape == (WIDTH, HEIGHT)
    result = job.json("valid_data_result.json")
    for row, expected in zip(result["Result"], rows_of(result, "keypoints"), strict=True):
        height, width = cv2.imread(row["image"]).shape[:2]
        pixels, _ = prepared(card, row["image"])
        points = outputs(job.log_dir, card, pixels)[0][0] * (width, height)
        np.testing.assert_allclose(points, expected, atol=0.01)


def test_the_model_opened_from_its_folder_gives_the_rows_of_the_result_file(job: Ended) -> None:
    written, again = reopened(job.log_dir)
    assert written
    assert again == [{key: row[key] for key in again[0]} for row in written]


def test_training_taken_up_again_goes_on_where_it_was(job: Ended, data: Path, tmp_path: Path) -> None:
    values = keys(data, tmp_path / "out", train__lr=1e-12, train__epochs=1)
    values["model"] = {"base_network": "no such network"}  # has no effect with --load
    checkpoint = job.log_dir / "best_checkpoint.pkl"
    ended = fit(SCRIPT, values, "--load", str(checkpoint))
    assert ended.status == 0, ended.output
    before, after = (
        read_checkpoint(path, "landmark") for path in (checkpoint, tmp_path / "out" / checkpoint.name)
    )
    assert after["model"] == before["model"]
    assert after["model"]["num_joints"] == JOINTS
    for name, value in before["parameters"].items():
        if "running" not in name:
            np.testing.assert_allclose(after["parameters"][name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "more",
    [
        {"train__mixup": True, "train__mixup_off_epoch": 4, "train__dtype": "bfloat16"},
        {"train__optimizer": "sgd", "train__lr": 0.05, "train__no_wd": True, "train__mode": "imperative"},
    ],
    ids=" ".join,
)
def test_jobs_learn_to_find_the_corners(tmp_path: Path, more: dict[str, Any]) -> None:
    draw(tmp_path / "data" / "train", 64, seed=2)
    draw(tmp_path / "data" / "valid", 16, seed=3)
    learning = {"train__epochs": 20, "train__batch_size": 8, "train__lr_decay_epoch": "14"}
    ended = fit(SCRIPT, keys(tmp_path / "data", tmp_path / "out", **{**learning, **more}))
    assert ended.status == 0, ended.output
    annotated = rows_of(ended.json("valid_data_result.json"), "groundtruth")
    trivial = np.sqrt(((annotated - annotated.mean(axis=0)) ** 2).mean())
    found = ended.json("valid_data_result.json")["RMSE"]
    assert found < 0.5 * trivial
    # Whatever the precision of training, the best epoch was chosen by what the exported model gives.
    assert -ended.json("status.json")["best_metric"]["value"] == pytest.approx(found, rel=1e-4)
