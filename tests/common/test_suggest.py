"""`python3 -m common.suggest`: a folder goes in, a configuration comes out that trains it in the time there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from classification.config import ClassificationConfig
from common.config.reading import configuration
from common.errors import ConfigurationError, DataError, PretrainedError
from common.language import ask_for
from common.suggest import __main__ as command
from common.suggest import choices, suggestion
from common.suggest.choices import CHOICES
from common.suggest.data import look
from common.suggest.suggestion import suggest, validated_share
from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config
from landmark.config import LandmarkConfig
from tests.helpers import label_trees as trees
from tests.helpers.detection_jobs import BLOOD_CELLS, NAMES, subset
from tests.helpers.jobs import ROOT, make_data


@pytest.fixture(autouse=True)
def spoken_by_locale() -> Iterator[None]:
    yield
    ask_for(None)


def txt_boxes(folder: Path) -> None:
    trees.images(folder / "train", "a.jpg", "b.jpg")
    for name in "ab":
        trees.text(folder / "train" / f"{name}.txt", "1,4,4,40,30\n")
    trees.text(folder / "classes.txt", "cat\ndog\n")


def coco_boxes(folder: Path) -> None:
    trees.images(folder / "train", "a.jpg", "b.jpg")
    boxes = [{"image_id": number, "category_id": 3, "bbox": [1, 1, 20, 20], "area": 400} for number in (1, 2)]
    trees.text(folder / "train" / "_annotations.coco.json", trees.coco(["a.jpg", "b.jpg"], boxes, {3: "cat"}))


def coco_points(folder: Path) -> None:
    trees.images(folder / "train", "a.jpg")
    thing = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "keypoints": [2, 2, 2, 9, 9, 2]}
    categories = [{"id": 1, "name": "face", "keypoints": ["left", "right"]}]
    trees.text(folder / "train" / "_annotations.coco.json", trees.coco(["a.jpg"], [thing], categories))


def labelme_boxes(folder: Path) -> None:
    trees.images(folder, "a.jpg")
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [30, 30]]}
    trees.text(folder / "a.json", trees.labelme(shape))


def labelme_points(folder: Path) -> None:
    trees.images(folder, "a.jpg")
    shapes = [
        {"label": name, "shape_type": "point", "points": [[5 + place, 5]]}
        for place, name in enumerate(("nose", "tail", "ear"))
    ]
    trees.text(folder / "a.json", trees.labelme(*shapes))


def txt_points(folder: Path) -> None:
    trees.images(folder / "train", "a.jpg")
    trees.text(folder / "train" / "a.txt", "3,4\n20,8\n10,30\n")


def class_folders(folder: Path) -> None:
    trees.images(folder / "train" / "cat", "a.jpg")
    trees.images(folder / "train" / "dog", "b.jpg")
    trees.images(folder / "val" / "dog", "c.jpg")


def new_identities(folder: Path) -> None:
    class_folders(folder)
    trees.images(folder / "val" / "fox", "d.jpg")


def market(folder: Path) -> None:
    trees.images(folder / "bounding_box_train", "0001_c1s1_000151_01.jpg", "0002_c1s1_000151_01.jpg")
    for name in ("query", "bounding_box_test"):
        trees.images(folder / name, "0003_c2s1_000151_01.jpg")


@pytest.mark.parametrize(
    ("made", "does", "kind", "folders", "more"),
    [
        (txt_boxes, "detection", "txt", {"train": "train"}, {"classes": ("cat", "dog")}),
        (coco_boxes, "detection", "coco", {"train": "train"}, {"joints": 0}),
        (coco_points, "landmark", "coco", {"train": "train"}, {"joints": 2}),
        (labelme_boxes, "detection", "labelme", {"train": "photos"}, {}),
        (labelme_points, "landmark", "labelme", {"train": "photos"}, {"joints": 3}),
        (txt_points, "landmark", "txt", {"train": "train"}, {"joints": 3}),
        (class_folders, "classification", "txt", {"train": "train", "valid": "val"}, {"images": 2}),
        (new_identities, "reid", "txt", {"train": "train", "valid": "val"}, {}),
        (market, "reid", "market1501", {"train": "bounding_box_train", "test": "."}, {}),
    ],
)
def test_what_a_folder_is_labelled_for_is_found_out(
    tmp_path: Path,
    made: Callable[[Path], None],
    does: str,
    kind: str,
    folders: dict[str, str],
    more: dict[str, Any],
) -> None:
    made(tmp_path / "photos")
    data = look(tmp_path / "photos")
    assert (data.does, data.format, dict(data.folders)) == (does, kind, folders)
    assert {name: getattr(data, name) for name in more} == more
    assert data.root == str(tmp_path if folders == {"train": "photos"} else tmp_path / "photos")


def test_a_task_may_be_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    assert look(tmp_path / "photos", "reid").does == "reid"
    with pytest.raises(DataError, match="has no labels for detection"):
        look(tmp_path / "photos", "detection")


def test_a_folder_without_images_or_labels_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        look(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no image"):
        look(tmp_path)
    trees.images(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DataError, match="has no labels for boxes, classes or keypoints"):
        look(tmp_path)


def test_labels_that_say_nothing_to_one_task_are_none_of_the_others_business(tmp_path: Path) -> None:
    txt_boxes(tmp_path)
    trees.text(tmp_path / "train" / "_annotations.coco.json", '{"images": [], "annotations": []}')
    assert look(tmp_path).does == "detection"
    with pytest.raises(DataError, match="is no COCO file"):
        look(tmp_path, "landmark")


def machine(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A machine whose steps at the size that is timed take so long."""
    monkeypatch.setattr(suggestion, "time_a_step", lambda *_: seconds)


def test_few_objects_are_left_to_centernet_and_a_fast_machine_has_a_larger_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "present", lambda *_: None)
    data = subset(tmp_path / "data", train=12, valid=4)
    shapes = []
    for a_step in (0.01, 0.6, 30.0):
        machine(monkeypatch, a_step)
        made = suggest(data, 10.0, None, ("gpus=[]",), tmp_path / "cells.json")
        assert made.script == "detect/fit_center_net.py"
        config = configuration(CenterNetConfig, made.values)
        assert config.train.minutes == 10.0
        assert config.dataset.valid_dir == "detect_valid"
        assert config.train.batch_size == 4  # of 12 images: three steps to a pass
        shapes.append(config.model.data_shape)
        english = " ".join(reason[0] for reason in made.reasons)
        assert ("would be enough" in english) == (a_step == 30.0)
    assert shapes[0] > shapes[1] > shapes[2] == (192, 192)
    assert shapes[0] <= (640, 640)  # the images are 640 px wide


def test_without_parameters_thousands_of_objects_are_left_to_yolov3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 0.2)
    monkeypatch.setattr(choices, "present", lambda *_: None)
    made = suggest(BLOOD_CELLS, 5.0, None, ("gpus=[]",), tmp_path / "cells.json")
    assert made.script == "detect/fit_yolov3.py"
    config = configuration(YOLOv3Config, made.values)
    assert (config.train.lr_mode, config.train.lr_decay_epoch) == ("step", (90,))
    assert any("the learning rate falls in their last tenth" in reason[0] for reason in made.reasons)
    assert config.log_dir == Path("out/cells")
    assert not config.model.use_pretrained


def test_boxes_begin_with_the_parameters_in_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1.0)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "nothing"))
    made = suggest(BLOOD_CELLS, 6.0, None, ("gpus=[]",), tmp_path / "cells.json")
    assert made.script == "detect/fit_ssd.py"
    config = configuration(SSDConfig, made.values)
    assert config.train.pretrained_base
    assert config.dataset.classes == tuple(NAMES)


def test_small_objects_are_given_a_larger_input_for_some_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 1.0)
    data = subset(tmp_path / "data")
    shapes = []
    for side in (60, 16, 5):
        for label in data.rglob("*.txt"):
            label.write_text("".join(f"0,{x},50,{x + side},{50 + side}\n" for x in range(0, 400, 100)))
        made = suggest(data, 2.6, None, ("gpus=[]",), tmp_path / "job.json")
        shapes.append(made.values["model"]["data_shape"][0])
        said = " ".join(reason[0] for reason in made.reasons)
        assert ("of the objects are smaller than 8 px in the input" in said) == (side == 5)
    assert shapes == [224, 300, 300]


def test_what_is_missing_in_the_data_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 1.0)
    data = subset(tmp_path / "data", train=5)
    shutil.rmtree(data / "detect_valid")
    first = sorted(data.rglob("*.jpg"))[0]
    for path in (first, first.with_suffix(".txt")):
        shutil.copy(path, path.with_name(f"again{path.suffix}"))
    made = suggest(data, 4.0, None, ("gpus=[]",), tmp_path / "job.json")
    said = " ".join(reason[0] for reason in made.reasons)
    assert "more than once, byte for byte: 1" in said
    assert "There are 6 training images: a hundred are a beginning" in said
    assert "there is no validation set" in said


@pytest.mark.parametrize(("images", "share"), [(10, 0.2), (5000, 0.2), (20_000, 0.05), (3_000_000, 0.00033)])
def test_a_large_set_keeps_its_images_for_training(images: int, share: float) -> None:
    assert validated_share(images) == share


def test_classes_begin_with_the_parameters_in_the_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 0.2)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "nothing"))
    (tmp_path / "photos").mkdir()
    shutil.move(make_data(tmp_path / "made") / "classes_train", tmp_path / "photos" / "train")
    made = suggest(tmp_path / "photos", 5.0, None, ("gpus=[]",), tmp_path / "job.json")
    config = configuration(ClassificationConfig, made.values)
    assert (config.model.base_network, config.model.use_pretrained) == ("mobilenetv2_1.0", True)
    assert config.dataset.valid_size == 0.2
    monkeypatch.setattr(choices, "present", lambda *_: None)
    made = suggest(tmp_path / "photos", 5.0, None, ("gpus=[]",), tmp_path / "job.json")
    assert not configuration(ClassificationConfig, made.values).model.use_pretrained


@pytest.mark.parametrize(("side", "width"), [(140, 128), (150, 160), (300, 224)])
def test_no_input_is_much_larger_than_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, width: int
) -> None:
    machine(monkeypatch, 0.001)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.full((side, side, 3), 20 * number, np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / name / f"{number}.png"), pixels)
    made = suggest(tmp_path / "photos", 5.0, None, ("gpus=[]",), tmp_path / "job.json")
    assert made.values["train"]["input_width"] == width


def test_parameters_that_are_damaged_are_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mobilenetv2_1.0-f9952bcd.params").write_bytes(b"half of it")
    with pytest.raises(PretrainedError, match="is damaged"):
        suggest(subset(tmp_path / "data"), 5.0, None, ("gpus=[]",), tmp_path / "job.json")


def test_keypoints_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0.2)
    (tmp_path / "photos").mkdir()
    shutil.move(make_data(tmp_path / "made") / "points_train", tmp_path / "photos" / "train")
    made = suggest(tmp_path / "photos", 5.0, None, ("gpus=[]",), tmp_path / "job.json")
    assert configuration(LandmarkConfig, made.values).dataset.num_joints == 3
    assert made.script == "landmark/fit_landmark.py"


def test_the_command_writes_the_configuration_and_prints_what_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, 0.2)
    monkeypatch.setattr(choices, "present", lambda *_: None)
    data, out = subset(tmp_path / "data"), tmp_path / "new" / "cells.json"
    next(data.glob("detect_train/*.txt")).write_text("a cell")
    words = [str(data), "--out", str(out), "--minutes", "3", "--set", "train.lr=0.5", "--set", "gpus=[]"]
    assert command.main([*words, "--lang", "zh"]) == 0
    values = json.loads(out.read_text())
    assert float(values["train"]["lr"]) == 0.5
    assert configuration(CenterNetConfig, values).train.lr == 0.5
    told = capsys.readouterr()
    assert told.err == ""
    printed = told.out.splitlines()
    assert any("有 1 个图像或标注不参与训练" in line for line in printed)
    assert not any(" INFO " in line for line in printed)
    assert printed[-1].endswith(f"detect/fit_center_net.py --config {out}")
    assert "开始训练：" in printed
    assert any("个类别的" in line for line in printed)
    assert "等图像旁的文本内容为 id,x1,y1,x2,y2（单位：像素）" in printed[0]
    assert " and others" not in printed[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--minutes", "0"], "--minutes: 0 is not allowed: it must be a number above 0 and at most 1000000"),
        (["--minutes", "inf"], "--minutes: inf is not allowed"),
        (["--out", "/proc/nowhere/job.json"], "--out: /proc/nowhere/job.json cannot be written: "),
        (["--set", "train.lr=fast"], 'train.lr: "fast"'),
        (["--set", "train.rate=1"], "train.rate: "),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_a_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    out = tmp_path / "job.json"
    status = command.main([str(subset(tmp_path / "data")), "--out", str(out), *words])
    assert status != 0
    assert reason in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


def test_a_configuration_that_is_there_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, 0.2)
    out = tmp_path / "job.json"
    out.write_text("mine")
    assert command.main([str(subset(tmp_path / "data")), "--out", str(out), "--lang", "en"]) == 0
    assert (tmp_path / "job.json~").read_text() == "mine"
    assert "model" in json.loads(out.read_text())
    assert f"What was {out} is {out}~ now" in capsys.readouterr().out
    assert command.main([str(BLOOD_CELLS), "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err


def test_what_is_set_is_what_is_spoken_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0.2)
    data = subset(tmp_path / "data")

    def reasons(*overrides: str) -> str:
        made = suggest(data, 5.0, None, ("gpus=[]", *overrides), tmp_path / "job.json")
        return " ".join(reason[0] for reason in made.reasons)

    assert "Input 96 x 128, batches of 2: in 7 minutes" in reasons(
        "model.data_shape=[96, 128]", "train.batch_size=2", "train.minutes=7"
    )
    assert "SSD on mobilenetv2_1.0 begins" in reasons()
    assert "SSD on mobilenetv2_1.0 begins" not in reasons("model.base_network=mobilenet1.0")
    assert "3 epochs: about 0 minutes" in reasons("train.minutes=0", "train.epochs=3")


def test_a_terminal_that_knows_no_chinese_shows_escapes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "zh_CN.UTF-8"}
    for words in (["-m", "common.suggest"], ["detect/fit_ssd.py"]):
        done = subprocess.run(
            [sys.executable, *words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "\\u" in done.stdout


def test_every_choice_is_there() -> None:
    assert {choice.does for choice in CHOICES} == {"detection", "classification", "reid", "landmark"}
    for choice in CHOICES:
        assert sorted(choice.sizes, reverse=True) == list(choice.sizes)
