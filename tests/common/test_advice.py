"""Advice at the end of a job: every rule speaks where its condition holds, and is silent beside it."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest

from common.advice import RULES, Facts, advise
from common.config.reading import configuration
from common.data.samples import Sample
from common.errors import JobError
from common.evaluation.document import MOST_SUSPECTS
from common.language import KINDS_IN_CHINESE, ask_for, asked_in, spoken
from detect.config import SSDConfig
from detect.input_figures import input_figures
from detect.ssd.task import SSDTask
from tests.helpers.jobs import ROOT

# A job with nothing to say but what its figures mean: 200 images of every class, a curve that has come to its end.
DETECTED = {
    "figures": {"best_thresh": 0.4, "recall": 0.9, "precision": 0.8, "mAP": 0.85},
    "curves": {"overall": {"score": [0.9, 0.5]}},
    "suspects": [],
}
GOOD = Facts(
    does="detection",
    metric="mAP",
    curve=[(200, 0.5), (400, 0.8), (600, 0.84), (800, 0.85), (1000, 0.85)],
    steps=1000,
    epochs=30,
    images=200,
    by_class={"cat": 200, "dog": 150},
    valid=60,
    document=DETECTED,
    reported=80,
    inputs={"limit": 8.0, "small": 0.01, "small_side": 20.0, "uncovered": 0.02},
    score_thresh=0.3,
    shape=(256, 256),
)
UNSURE = {**DETECTED, "curves": {"overall": {"score": [0.2, 0.1]}}}
RISING = [(100, 0.05), (300, 0.1), (500, 0.2), (700, 0.4), (900, 0.5), (1000, 0.6)]
FALLING = [(100, 0.3), (200, 0.6), (400, 0.55), (600, 0.5), (800, 0.4), (1000, 0.42)]
SUSPECTS = [{"reason": "other_class"}] * 3

# Code: what makes it speak, what leaves it silent, and what it must name.
CASES: dict[str, list[tuple[dict[str, Any], dict[str, Any], str]]] = {
    "below_threshold": [
        (
            {"reported": 0, "document": UNSURE},
            {"reported": 1, "document": UNSURE},
            "the highest score is 0.20",
        )
    ],
    "still_improving": [
        ({"curve": RISING}, {"curve": GOOD.curve}, "train.epochs 60"),
        ({"curve": RISING}, {"curve": [*RISING[:-1], (1000, 1.0)]}, "train.epochs 60"),
        ({"curve": RISING, "minutes": 5.0}, {"curve": [(500, 0.1), (1000, 0.6)]}, "train.minutes 10"),
        (
            {
                "does": "landmark",
                "metric": "-RMSE",
                "curve": [(step, -40.0 + step / 50) for step, _ in RISING],
            },
            {"does": "landmark", "metric": "-RMSE", "curve": [(step, -4.0) for step, _ in RISING]},
            "-RMSE was still rising",
        ),
    ],
    "few_steps": [
        ({"steps": 120, "curve": [(120, 0.06)]}, {"steps": 900, "curve": [(900, 0.06)]}, "took 120 steps"),
        ({"steps": 120, "curve": []}, {"steps": 120, "curve": [(120, 0.7)]}, "train.epochs 83"),
        # Parameters that know images have less to learn.
        (
            {"steps": 199, "curve": [], "pretrained": True},
            {"steps": 200, "curve": [], "pretrained": True},
            "needs 200 and more",
        ),
        (
            {"does": "classification", "steps": 399, "curve": []},
            {"does": "classification", "steps": 399, "curve": [], "pretrained": True},
            "needs 400 and more",
        ),
    ],
    "overfitting": [
        ({"curve": FALLING}, {"curve": RISING}, "0.60, came after 20% of the training"),
        ({"curve": FALLING}, {"curve": [*FALLING[:-2], (800, 0.2), (1000, 0.59)]}, "fell to 0.42"),
        # Of 6 images a single one is 0.17.
        ({"curve": FALLING, "valid": 60}, {"curve": FALLING, "valid": 6}, "fell to 0.42"),
    ],
    "random_start": [({"random": True}, {"random": False}, "use_pretrained")],
    "few_images": [({"images": 12}, {"images": 30}, "12 training images")],
    "class_with_few_images": [
        ({"by_class": {"cat": 200, "owl": 7}}, {"by_class": {"cat": 200, "owl": 30}}, "owl (7)"),
        (
            {"does": "classification", "by_class": {"a": 3}},
            {"does": "reid", "by_class": {"a": 3}},  # identities have few images each
            "a (3)",
        ),
    ],
    "small_objects": [
        (
            {"inputs": {"limit": 8.0, "small": 0.3, "small_side": 5.0}},
            {"inputs": {"limit": 8.0, "small": 0.09, "small_side": 8.2}},
            "[416, 416]",
        ),
        (
            {"inputs": {"limit": 8.0, "small": 1.0, "small_side": 1.0}},
            {"inputs": {}},
            "[512, 512]",  # no more than twice as large at a time
        ),
    ],
    "boxes_without_anchor": [
        ({"inputs": {"uncovered": 0.25}}, {"inputs": {"uncovered": 0.05}}, "25% of the objects")
    ],
    "left_out": [({"left_out": 4}, {"left_out": 0}, "4 images or labels")],
    "suspect_labels": [
        (
            {"document": {**DETECTED, "suspects": SUSPECTS}},
            {"document": {**DETECTED, "suspects": SUSPECTS[:2]}},
            "3 labels",
        ),
        (
            {"document": {**DETECTED, "suspects": SUSPECTS}},
            {"document": {**DETECTED, "suspects": SUSPECTS}, "curve": [(1000, 0.6)]},  # by a poor model
            "3 labels",
        ),
        (
            {"document": {**DETECTED, "suspects": SUSPECTS}, "valid": 60},
            {"document": {**DETECTED, "suspects": SUSPECTS}, "valid": 61},  # a good model may doubt so few
            "3 labels",
        ),
    ],
    "no_validation": [
        ({"valid": 0, "document": {}, "curve": []}, {"valid": 60}, "dataset.valid_size 0.2"),
    ],
    "few_validation_images": [({"valid": 12}, {"valid": 50}, "12 validation images")],
    "figures": [
        ({}, {"document": {}}, "it finds 9, and of 10 that it reports 8 are right"),
        (
            {
                "does": "classification",
                "document": {"figures": {"accuracy": 0.745}, "by_class": {"a": {"samples": 30}}},
            },
            {"does": "classification", "document": {}},
            "recognises 7.5; to name the most frequent class each time would be right in 5",
        ),
        (
            {"does": "reid", "document": {"figures": {"rank1": 0.9}}},
            {"does": "reid", "document": {}},
            "For 9 of 10",
        ),
        (
            {"does": "landmark", "document": {"figures": {"NME": 0.05, "RMSE": 3.3}}},
            {"does": "landmark", "document": {}},
            "off by 5.0% of the object's size",
        ),
    ],
}


def said(**changes: Any) -> dict[str, str]:
    return {piece.code: piece.text[0] for piece in advise(dataclasses.replace(GOOD, **changes))}


def test_a_job_that_went_well_hears_what_its_figures_mean_and_nothing_else() -> None:
    assert list(said()) == ["figures"]


def test_every_rule_is_tried() -> None:
    assert CASES.keys() == {rule.code for rule in RULES}


@pytest.mark.parametrize("language", ["", "_zh"])
def test_the_page_on_results_has_every_code(language: str) -> None:
    page = (ROOT / f"docs/results{language}.md").read_text()
    assert [rule.code for rule in RULES if f"`{rule.code}`" not in page] == []


@pytest.mark.parametrize(
    ("code", "speaks", "silent", "words"), [(code, *case) for code, cases in CASES.items() for case in cases]
)
def test_a_rule_speaks_where_it_applies_alone(
    code: str, speaks: dict[str, Any], silent: dict[str, Any], words: str
) -> None:
    assert words in said(**speaks)[code]
    assert code not in said(**silent)


def test_labels_that_are_more_than_can_be_listed_are_not_said_to_be_so_many() -> None:
    document = {**DETECTED, "suspects": SUSPECTS[:1] * MOST_SUSPECTS}
    assert said(document=document)["suspect_labels"].startswith("100+ labels")


def test_advice_is_in_the_language_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = next(iter(advise(dataclasses.replace(GOOD, left_out=4))))
    assert re.search("[一-鿿]", piece.entry("zh")["text"])
    assert not re.search("[一-鿿]", piece.entry("en")["text"])
    ask_for(None)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert spoken() == "en"
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert spoken() == "zh"
    ask_for("en")
    assert spoken() == "en"
    ask_for(None)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert spoken() == "en"


def test_the_language_is_known_before_the_command_line_is_read() -> None:
    assert asked_in(["--config", "a.json", "--lang", "zh", "--help"]) == "zh"
    assert asked_in(["--lang=en"]) == "en"
    assert asked_in(["--lang"]) is None
    assert asked_in(["--lang", "fr"]) is None


def test_every_kind_of_error_has_a_chinese_sentence() -> None:
    kinds = set(re.findall(r"^    (\w+) +(?:yes|no) ", str(JobError.__doc__), re.M))
    assert KINDS_IN_CHINESE.keys() == kinds - {"stopped"}


def test_metrics_that_are_no_numbers_say_nothing() -> None:
    assert "still_improving" not in said(curve=[(step, math.nan) for step, _ in RISING])


def test_anchors_that_are_fitted_are_not_asked_for_again() -> None:
    samples = [Sample("a.jpg", 400, 400, np.array([[0, 10, 5, 20, 395]], np.float32))]
    for fit in (False, True):
        section = {"log_dir": "out", "gpus": [], "model": {"anchor_fit": fit}}
        figures = SSDTask(configuration(SSDConfig, section)).input_figures(samples)
        assert figures["median_side"] > 0
        assert figures.get("uncovered") == (None if fit else 1.0)


def test_objects_are_measured_as_the_network_sees_them() -> None:
    boxes = np.array([[0, 0, 0, 40, 20], [0, 0, 0, 200, 100], [-1, 0, 0, 1, 1]], np.float32)
    found = input_figures([Sample("a.jpg", 800, 400, boxes)], (80, 80), np.array([0.04, 1.0]))
    assert found["small"] == 0.5  # 4 x 4 px and 20 x 20 px; the place of no class is no object
    assert found["median_side"] == pytest.approx(12.0)
    assert found["uncovered"] == 0.5
    assert "uncovered" not in input_figures([Sample("a.jpg", 800, 400, boxes)], (80, 80), None)
    assert input_figures([Sample("a.jpg", 8, 8, boxes[2:])], (80, 80), None) == {}
