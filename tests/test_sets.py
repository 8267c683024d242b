"""Sets that never lie: what is validated on is not trained on, from one job to the next."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import DataError
from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import EVERY_SCRIPT, finish, make_data, start
from tests.helpers.loaded_sets import load

KINDS = {"landmark": "points", "yolov3": "boxes", "centernet": "boxes"}
NO_FOLDER = ("--set", "dataset.valid_dir=null")
SPLIT = (*NO_FOLDER, "--set", "dataset.valid_size=0.25")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set, and the checkpoint of a job that was trained on all of it."""
    folder = tmp_path_factory.mktemp("classifier")
    data = make_data(folder / "data", train=4, valid=2)
    finish(start("classification", folder / "first", data, *NO_FOLDER, epochs=1))
    return data, folder / "first" / "best_checkpoint.pkl"


def grow(folder: Path, added: int) -> None:
    """Other images with the annotations of those that are there, `added` of each class."""
    rng = np.random.default_rng(9)
    for path in sorted(folder.rglob("*0.png")):
        for number in range(added):
            new = path.with_name(f"new{path.stem}{number}.png")
            Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(new)
            if path.with_suffix(".txt").exists():
                shutil.copy(path.with_suffix(".txt"), new.with_suffix(".txt"))


def validated(log_dir: Path) -> set[bytes]:
    rows = json.loads((log_dir / "valid_data_result.json").read_text())["Result"]
    return {Path(row["image"]).read_bytes() for row in rows}


# SSD reads, splits and keeps its sets with YOLOv3's code.
@pytest.mark.parametrize("task", [task for task in EVERY_SCRIPT if task.values[0] != "ssd"])
def test_a_job_on_a_grown_set_never_validates_on_what_it_was_trained_on(task: str, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=8, valid=1)
    folder = data / f"{KINDS.get(task, 'classes')}_train"
    everything = {path.read_bytes() for path in folder.rglob("*.png")}
    finish(start(task, tmp_path / "first", data, *SPLIT, epochs=1))
    first = validated(tmp_path / "first")
    trained = everything - first
    assert len(first) == 4
    # Under other names the new split falls otherwise, and would validate on some of what was trained on.
    grow(folder, 4)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not path.name.startswith("new"):
            path.rename(path.with_name(f"old{path.name}"))
    options = ("--load", str(tmp_path / "first" / "best_checkpoint.pkl"))
    output = finish(start(task, tmp_path / "second", data, *SPLIT, *options, epochs=1))
    second = validated(tmp_path / "second")
    assert second
    assert not second & trained
    report = json.loads((tmp_path / "second" / "data_report.json").read_text())
    assert report["returned_to_training"] == 6 - len(second) > 0
    assert (
        f"has been trained on {report['returned_to_training']} of the images that the split takes" in output
    )
    # The second checkpoint knows of both trainings.
    marks = read_checkpoint(tmp_path / "second" / "best_checkpoint.pkl", task)["trained"]
    assert len(marks) == report["trained_images"]["count"] == 24 - len(second)
    assert [int(mark, 16) for mark in report["trained_images"]["marks"].split()] == marks.tolist()


def test_a_validation_set_of_its_own_with_trained_images_is_said(
    tmp_path: Path, classifier: tuple[Path, Path]
) -> None:
    data, checkpoint = tmp_path / "data", classifier[1]
    shutil.copytree(classifier[0], data)
    moved = sorted((data / "classes_train").rglob("*0.png"))
    for path in moved:
        path.rename(data / "classes_valid" / path.parent.name / f"moved{path.name}")
    output = finish(start("classification", tmp_path / "second", data, "--load", str(checkpoint), "--check"))
    assert "has been trained on 2 of the 6 images of the validation set before" in output


def test_the_same_image_in_two_sets_stays_out_of_training(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4, valid=2)
    copy = data / "classes_train" / "light" / "copy.png"
    shutil.copy(data / "classes_valid" / "dark" / "dark0.png", copy)
    output = finish(start("classification", tmp_path / "out", data, epochs=1))
    assert "1 images stay out of training: the validation or test set has them as well" in output
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert [entry["file"] for entry in report["train"]["left_out"]] == [str(copy)]
    assert report["train"]["samples_by_class"] == {"dark": 4, "light": 4}
    assert report["identical_images"][0]["annotated_differently"] is True


@pytest.mark.parametrize(("key", "other"), [("valid", "train"), ("test", "valid"), ("test", "train")])
def test_two_sets_of_the_same_images_are_an_error(tmp_path: Path, key: str, other: str) -> None:
    data = make_data(tmp_path / "data", train=2, valid=2)
    shutil.copytree(data / f"classes_{other}", data / "again")
    folders = {"train_dir": "classes_train", "valid_dir": "classes_valid", f"{key}_dir": "again"}
    with pytest.raises(DataError) as error:
        load(data, "classification", **folders)
    assert f"dataset.{key}_dir: the" in str(error.value)
    assert "holds the same images as the" in str(error.value)
    assert f"dataset.{other}_dir" in str(error.value)


@pytest.mark.slow
def test_a_resumed_job_measures_its_best_epoch_on_the_set_that_is_there_now(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4, valid=4)
    finish(start("landmark", tmp_path / "out", data, epochs=2))
    before = json.loads((tmp_path / "out" / "status.json").read_text())["best_metric"]
    # Keypoints that no network of this training can hit: whatever comes now is worse than what was measured then.
    for path in (data / "points_valid").glob("*.txt"):
        path.write_text("39,39\n39,39\n39,39\n")
    output = finish(start("landmark", tmp_path / "out", data, "--resume", epochs=3))
    assert "the validation set is another one now" in output
    after = json.loads((tmp_path / "out" / "status.json").read_text())["best_metric"]
    result = json.loads((tmp_path / "out" / "valid_data_result.json").read_text())
    assert after["value"] < before["value"] - 5
    assert result["RMSE"] == pytest.approx(-after["value"], abs=1e-3)


def test_folders_as_people_have_them_become_the_classes_that_they_mean(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4, valid=2)
    train, valid = data / "classes_train", data / "classes_valid"
    # The validation set within the training set, packed on another system; classes in one of two Unicode forms.
    (train / "dark").rename(train / unicodedata.normalize("NFC", "été"))
    (valid / "dark").rename(valid / unicodedata.normalize("NFD", "été"))
    gbk = os.fsdecode("缺陷".encode("gbk"))
    for folder in (train, valid):
        (folder / "light").rename(folder / gbk)
        (folder / "__MACOSX").mkdir()
        shutil.copy(next((folder / gbk).iterdir()), folder / "__MACOSX" / "._1.png")
        (folder / "a link").symlink_to(folder / gbk)
        (folder / gbk / "deeper").mkdir()
        (folder / gbk / "light0.png").rename(folder / gbk / "deeper" / "light0.png")
    (valid / "nothing yet").mkdir()
    valid.rename(train / "valid")
    inner = ("--set", "dataset.valid_dir=classes_train/valid")
    output = finish(start("classification", tmp_path / "out", data, *inner, epochs=1))
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert report["train"]["samples_by_class"] == {"été": 4, "缺陷": 4}
    assert report["valid"]["samples_by_class"] == {"été": 2, "缺陷": 2}
    assert report["identical_images"] == report["train"]["left_out"] == []
    for told in ("folders of no class, without images: nothing yet", "images lie deeper", "is read as"):
        assert told in output
    result = json.loads((tmp_path / "out" / "valid_data_result.json").read_text())["Result"]
    assert {row["groundtruth"] for row in result} == {"été", "缺陷"}
    assert len(result) == 4
    # Every file is UTF-8 without halves of surrogate pairs.
    for path in (tmp_path / "out").glob("*.json"):
        json.dumps(json.loads(path.read_bytes().decode()), ensure_ascii=False).encode()


def test_what_is_odd_about_the_sets_is_said_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    make_data(tmp_path, train=2, valid=1)
    finish(start("reid", tmp_path / "out", tmp_path, epochs=1, batch_size=4))
    lines = (tmp_path / "out" / "estimator.log").read_text().splitlines()
    begun = next(number for number, line in enumerate(lines) if "Training: epochs 0 to 0" in line)
    ended = next(number for number, line in enumerate(lines) if "Finished" in line)
    for sentence in (
        "The validation set: one image alone of every identity: there is no other to find it by",
        "train.batch_size 4 shows one identity at a time",
    ):
        assert [sentence in line for line in lines[:begun]].count(True) == 1
        assert [sentence in line and "Once more" in line for line in lines[begun:ended]].count(True) == 1
    finish(start("reid", tmp_path / "out", tmp_path, "--resume", epochs=1, batch_size=4))
    log = (tmp_path / "out" / "estimator.log").read_text()
    assert "Training: nothing is left of its 1 epochs" in log
    assert "to -1" not in log
    assert "epochs 1 to 0" not in log


def test_one_class_alone_is_said(tmp_path: Path) -> None:
    make_data(tmp_path, train=3, valid=1)
    for part in ("train", "valid"):
        shutil.rmtree(tmp_path / f"classes_{part}" / "light")
    output = finish(start("classification", tmp_path / "out", tmp_path, "--check"))
    for number, part in enumerate(("training", "validation"), start=1):
        sentence = f"The {part} set: one class alone: there is nothing to tell apart"
        assert output.count(f" WARNING {sentence}") == 1
        assert output.count(f" WARNING Once more, warning {number} of 2: {sentence}") == 1
    assert "data_report.json" not in output


def test_entries_and_images_that_are_left_out_are_counted_apart(tmp_path: Path) -> None:
    make_data(tmp_path, train=2, valid=1)
    (tmp_path / "boxes_train" / "dark0.txt").write_text("nonsense\n")
    (tmp_path / "boxes_train" / "dark1.txt").write_text("0,4,6,30,34\n0,9,9,9,9\n0,70,70,80,80\n")
    output = finish(start("yolov3", tmp_path / "out", tmp_path, "--check"))
    assert (
        "boxes_train: 4 images, 3 samples, 1 images left out, 2 entries left out of other images\n" in output
    )
    assert "boxes_valid: 2 images, 2 samples\n" in output


@pytest.mark.slow
def test_a_job_that_began_with_load_is_resumed_without_a_word_on_the_model(
    tmp_path: Path, classifier: tuple[Path, Path]
) -> None:
    data, checkpoint = classifier
    options = ("--load", str(checkpoint))
    finish(start("classification", tmp_path / "out", data, *options, epochs=1))
    output = finish(start("classification", tmp_path / "out", data, *options, "--resume", epochs=2))
    assert "model.base_network" not in output
    assert "Resuming after epoch 0" in output


def test_keypoints_that_cannot_be_seen_go_through_a_whole_job(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4, valid=2)
    for path in data.glob("points_*/*0.txt"):
        path.write_text("-1,-1\n20,8\n10,30\n")
    finish(start("landmark", tmp_path / "out", data, epochs=1))
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert [report[part]["invisible_points"] for part in ("train", "valid")] == [2, 2]
    result = json.loads((tmp_path / "out" / "valid_data_result.json").read_text())
    hidden = [row for row in result["Result"] if row["image"].endswith("0.png")]
    assert len(hidden) == 2
    errors = []
    for row in result["Result"]:
        assert (row["groundtruth"][0] is None) == (row in hidden)
        for found, truth in zip(row["keypoints"], row["groundtruth"], strict=True):
            if truth is not None:
                errors += [found[axis] - truth[axis] for axis in "xy"]
    assert result["RMSE"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
