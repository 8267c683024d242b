"""The report is one file that shows what an evaluation holds, and runs nothing, whatever names and files are called."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.evaluation.document import evaluation_document
from common.evaluation.pictures import encode_jpeg
from common.evaluation.report import Training, report

EVIL = "</title></style><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">'\"&"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of three pictures in a folder with an evil name."""
    folder = tmp_path_factory.mktemp("images") / "<script>document.title='run'<"
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(
            encode_jpeg(np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8))
        )
    return [str(path) for path in paths]


def detection(images: list[str], **changes: Any) -> dict[str, Any]:
    curve = {"score": [0.9, 0.5], "precision": [1.0, 0.5], "recall": [0.5, 0.8], "f1": [0.6, 0.7]}
    entries = [
        {
            "image": image,
            "width": 120,
            "height": 90,
            "errors": {"missed": 1, "twice": 0, "wrong_place": 0, "wrong_class": 0, "background": 1},
            "objects": [{"class": EVIL, "score": 0.75, "bbox": [5, 5, 50, 50], "verdict": "background"}],
            "groundtruth": [{"class": "猫", "bbox": [60, 60, 110, 80], "verdict": "missed"}],
        }
        for image in images
    ]
    content: dict[str, Any] = {
        "figures": {"mAP": 0.123456789, "best_thresh": 0.35, "missed": 1, "COCO_AP75": None},
        "by_class": {"猫": {"objects": 3, "AP": 0.5}, EVIL: {"objects": 0, "AP": None}},
        "curves": {"overall": curve, "precision_recall": {"猫": curve, EVIL: curve}},
        "confusion": np.array([[3, 1, 1], [0, 2, 0], [1, 0, 0]]),
        "confusion_images": {(0, 1): images[:2], (2, 0): images[2:]},
        "worst": entries,
        "suspects": [
            {
                "image": images[0],
                "width": 120,
                "height": 90,
                "score": 0.9,
                "predicted": EVIL,
                "groundtruth": None,
                "bbox": [1, 2, 30, 40],
                "reason": "not_labelled",
            }
        ],
    }
    return evaluation_document("detection", "valid", ["猫", EVIL], **{**content, **changes})


def every_kind(images: list[str]) -> list[dict[str, Any]]:
    """A document of each task."""
    shared = {"image": images[0], "width": 120, "height": 90}
    return [
        detection(images),
        evaluation_document(
            "classification",
            EVIL,
            [EVIL, "b"],
            figures={"accuracy": 0.5},
            by_class={EVIL: {"samples": 2, "f1": 0.5}},
            curves={"reliability": {"confidence": [0.2, 0.9], "accuracy": [0.1, 0.8], "count": [3, 4]}},
            confusion=np.eye(2),
            worst=[{**shared, "groundtruth": EVIL, "predicted": "b", "score": 0.5, "bbox": [1, 1, 9, 9]}],
        ),
        evaluation_document(
            "landmark",
            "test",
            [],
            figures={"RMSE": 1.5},
            by_class={EVIL: {"rmse": 2.0, "nme": None}},
            curves={"cumulative_error": {"nme": [0, 0.07], "share": [0, 0.9]}},
            worst=[
                {
                    **shared,
                    "nme": 0.1,
                    "keypoints": [[1, 2], [3, 4]],
                    "groundtruth_keypoints": [[2, 2], [None, None]],
                }
            ],
        ),
        evaluation_document(
            "reid",
            "query",
            [],
            figures={"rank1": 0.5},
            by_class={},
            curves={"ranks": {"rank": [1, 2], "share": [0.5, 0.6]}},
            worst=[
                {
                    **shared,
                    "identity": EVIL,
                    "AP": 0.1,
                    "first_right": 7.0,
                    "neighbours": [{"image": images[1], "identity": EVIL, "cosine": 0.9, "right": False}],
                }
            ],
        ),
    ]


TRAINING = Training(
    facts=[(("Model", "模型"), EVIL)],
    configuration={"log_dir": EVIL, "train": {"lr": 0.1}},
    data={
        "train": {
            "folder": EVIL,
            "images": 5,
            "samples": 4,
            "left_out": [{"file": EVIL, "line": 3, "reason": "half of it is missing\nand more"}],
            "format": "txt",
            "classes": {EVIL: {"id": 0, "objects": 7}, "猫": {"id": 1, "objects": 2}},
            "warnings": [EVIL],
        }
    },
    curves={"loss/total": [(0, 3.0), (10, 2.0)], EVIL: [(0, 1.0)]},
)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_are_text_and_nothing_outside_is_referred_to(images: list[str]) -> None:
    page = report(EVIL, every_kind(images), TRAINING)
    found = Elements(page)
    assert EVIL in found.text
    assert not [
        tag for tag, _ in found.elements if tag in ("script", "img", "iframe", "object", "link", "base")
    ]
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), attributes
    assert "url(" not in page
    assert "@import" not in page


def test_every_link_leads_to_something(images: list[str]) -> None:
    found = Elements(report("model", every_kind(images)[:1] + every_kind(images)[2:], TRAINING))
    anchors = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    links = {(attributes.get("href") or "")[1:] for tag, attributes in found.elements if tag in ("a", "use")}
    assert "valid-cell-0-1" in links
    assert links <= set(anchors)


def test_figures_counts_and_what_was_left_out_stand_there(images: list[str]) -> None:
    page = report("yolov3_mobilenet1.0", [detection(images)], TRAINING)
    text = Elements(page).text
    assert "<td>猫</td><td>2</td>" in page
    for wanted in (
        "yolov3_mobilenet1.0",
        "0.1235",
        "0.35",
        "Validation set",
        "验证集",
        "half of it is missing and more",
    ):
        assert wanted in text
    assert "mAP: 0.123456789" in html.unescape(page)
    assert '"lr": 0.1' in text


def test_a_picture_stands_there_once_however_often_it_is_shown(images: list[str]) -> None:
    page = report("model", [detection(images)])
    assert page.count("data:image/jpeg") == 3
    assert page.count("<use ") > 6


def test_an_image_that_is_gone_costs_its_picture_alone(images: list[str]) -> None:
    page = report("model", [detection([*images[:1], "/gone/1.jpg", "/gone/2.jpg"])])
    assert page.count("data:image/jpeg") == 1
    assert "/gone/1.jpg" in page


def test_the_file_stays_below_five_megabytes(images: list[str]) -> None:
    many = [f"/data/{number}.jpg" for number in range(40)]
    classes = [f"class {number}" for number in range(200)]
    curve = {name: np.linspace(0, 1, 400).round(5) for name in ("score", "precision", "recall", "f1")}
    documents = [
        {
            **detection(
                many[:3],
                worst=[{**detection(images)["worst"][0], "image": image} for image in many],
                by_class={
                    name: {"objects": 1, "AP": 0.5, "precision": 0.5, "recall": 0.5} for name in classes
                },
                curves={"overall": curve, "precision_recall": dict.fromkeys(classes, curve)},
            ),
            "set": name,
            "classes": classes,
        }
        for name in ("valid", "test")
    ]
    noise = encode_jpeg(np.random.default_rng(1).integers(0, 255, (480, 480, 3)).astype(np.uint8))
    assert len(noise) > 150_000
    page = report("model", documents, picture=lambda path, side: (noise, (480, 480)))
    assert len(page.encode()) < 5_000_000


def test_many_classes_are_listed_by_what_is_mixed_up_most(images: list[str]) -> None:
    counts = np.diag(np.full(101, 5))
    counts[3, 7], counts[8, 100] = 9, 2
    document = detection(images, confusion=counts, confusion_images={(3, 7): images[:1]})
    document["classes"] = [f"c{number}" for number in range(100)]
    page = report("model", [document])
    assert '<table class="matrix"' not in page
    assert page.index("<td>c3</td><td>c7</td>") < page.index("<td>c8</td>")


def test_an_empty_evaluation_makes_a_page() -> None:
    document = evaluation_document("detection", "valid", [], figures={}, by_class={}, curves={})
    assert "Validation set" in report("model", [document], Training())
    assert "model" in report("model", [], Training())


@pytest.mark.parametrize(
    ("name", "shown"), [("valid", "Validation set"), ("photos", "photos"), ("test", "Test set")]
)
def test_a_set_has_one_name_on_the_whole_page(name: str, shown: str) -> None:
    document = evaluation_document("detection", name, [], figures={}, by_class={}, curves={})
    told = Training(data={name: {"folder": "x", "images": 3}}, sets=[name])
    page = report("model", [document], told)
    assert page.count(f">{shown}<") == 3  # the link, the row of what was read, and the section
    others = {"Training set", "Validation set", "Test set"} - {shown}
    assert not any(other in page for other in others)


def in_chromium(page: str, script: str, tmp_path: Path, width: int, sandbox: str = "") -> Any:
    """What a script of a platform's page finds that shows the report in a frame of so many pixels."""
    outside = (
        f'<iframe id="frame" style="width:{width}px;height:900px;border:0" {sandbox} srcdoc="{html.escape(page)}">'
        "</iframe><pre id='found'></pre><script>frame.onload = () => { const page = frame.contentDocument;"
        f" document.getElementById('found').textContent = JSON.stringify((() => {{ {script} }})()); }};</script>"
    )
    path = tmp_path / "platform.html"
    path.write_text(outside, "utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(
                "--virtual-time-budget=5000",
                "--enable-logging=stderr",
                f"--user-data-dir={tmp_path / 'profile'}",
            ),
            *("--window-size=1400,1000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Content Security Policy" not in done.stderr, done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_platform_can_show_it_in_a_frame_of_any_width(
    images: list[str], tmp_path: Path, width: int
) -> None:
    found = in_chromium(
        report(EVIL, every_kind(images), TRAINING),
        """
        const seen = (selector) => page.defaultView.getComputedStyle(page.querySelector(selector));
        const english = () => seen('h2 [lang=en]').display, ground = () => seen('.page').backgroundColor;
        const before = [english(), seen('h2 [lang=zh]').display];
        page.querySelector('label[for=light]').click(); const light = ground();
        page.querySelector('label[for=dark]').click(); const dark = ground();
        page.querySelector('label[for=zh]').click();
        const picture = page.querySelector('.card .picture').getBoundingClientRect();
        return {before, after: [english(), seen('h2 [lang=zh]').display], light, dark, title: page.title,
                wide: page.documentElement.scrollWidth, picture: picture.width, outer: document.title};
        """,
        tmp_path,
        width,
    )
    assert found["before"] == ["inline", "none"]
    assert found["after"] == ["none", "inline"]
    assert found["light"] == "rgb(255, 255, 255)"
    assert found["dark"] != found["light"]
    assert "script" in found["title"]
    assert found["outer"] == ""
    assert found["wide"] <= width
    assert 200 < found["picture"] <= width
