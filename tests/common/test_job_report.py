"""A job leaves evaluations and a report beside its results, and TensorBoard's page shows more than curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from common.job_report import aside, thresholds
from common.reporting import warnings
from common.reporting.progress import curves
from tests.helpers.jobs import SCRIPTS, config, fit, make_data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log_dir of a job that shows two pictures at each of its two validations, in a folder with old results."""
    folder = tmp_path_factory.mktemp("job")
    log_dir = folder / "out"
    log_dir.mkdir()
    for name in ("report.html", "valid_evaluation.json", "test_evaluation.json"):
        (log_dir / name).write_text("of an earlier job")
    values = config("yolov3", log_dir, make_data(folder / "data"), epochs=2, lr_decay_epoch="")
    values["valid"] = {"pictures": 2, "score_thresh": 0.001}
    assert fit(SCRIPTS["yolov3"], values).status == 0
    return log_dir


def summaries(log_dir: Path) -> list[Any]:
    return [
        (event.step, value)
        for path in sorted(log_dir.glob("events.out.tfevents.*"))
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def test_what_an_earlier_job_left_is_gone(job: Path) -> None:
    assert not (job / "test_evaluation.json").exists()
    assert json.loads((job / "valid_evaluation.json").read_text())["set"] == "valid"


def test_the_report_tells_of_the_training(job: Path) -> None:
    page = (job / "report.html").read_text()
    for wanted in (
        "yolo3_mobilenet1.0_custom",
        "loss",
        "learning_rate",
        "boxes_train",
        "num_workers",
        "data:image/jpeg",
    ):
        assert wanted in page


def test_the_best_threshold_stands_in_the_card(job: Path) -> None:
    card = json.loads((job / "model.json").read_text())
    document = json.loads((job / "valid_evaluation.json").read_text())
    assert card["best_thresh"] == document["figures"]["best_thresh"]
    assert card["best_thresh_by_class"] == {
        name: row["best_thresh"] for name, row in document["by_class"].items()
    }


def test_the_page_shows_as_many_pictures_as_are_asked_for_at_every_validation(job: Path) -> None:
    shown = [(step, value.tag, value.image) for step, value in summaries(job) if value.HasField("image")]
    assert sorted((step, tag) for step, tag, _ in shown) == [
        (step, f"valid/{number}") for step in (2, 4) for number in (0, 1)
    ]
    for _, _, image in shown:
        assert image.encoded_image_string.startswith(b"\xff\xd8")
        assert (image.width, image.height) == (320, 320)  # 40 pixels, enlarged


def test_the_page_shows_the_configuration_and_precision_over_recall(job: Path) -> None:
    by_plugin: dict[str, list[Any]] = {}
    for _, value in summaries(job):
        by_plugin.setdefault(value.metadata.plugin_data.plugin_name, []).append(value)
    [text] = by_plugin["text"]
    assert '"num_workers": 1' in text.tensor.string_val[0].decode()
    assert {value.tag for value in by_plugin["pr_curves"]} <= {
        "precision_recall/valid/dark",
        "precision_recall/valid/light",
    }
    assert by_plugin["pr_curves"]


def test_curves_are_read_back_from_the_page_s_files(job: Path) -> None:
    found = curves(job)
    assert "progress" not in found
    assert [step for step, _ in found["valid/mAP"]] == [2, 4]
    assert len(found["learning_rate"]) > 3


def test_what_cannot_be_made_is_a_warning() -> None:
    warnings.forget()
    with aside("report.html"):
        raise ValueError("no room\nat all")
    assert warnings.told() == ["report.html is left out: no room\\nat all"]
    warnings.forget()


def test_tasks_without_scores_have_no_threshold() -> None:
    assert thresholds({}) == {}
    assert thresholds({"valid": {"figures": {"RMSE": 1.0}, "by_class": {}}}) == {}
