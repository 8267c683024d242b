"""From a finished job to new images: rows, pictures and labels, whatever is among the files."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from common.convert import main as convert
from common.evaluate import main as evaluate
from common.predict import main as predict
from tests.helpers.jobs import EVERY_SCRIPT, SCRIPTS, config, fit, make_data

KIND = {
    "yolov3": "boxes",
    "centernet": "boxes",
    "ssd": "boxes",
    "landmark": "points",
    "classification": "classes",
    "reid": "classes",
}
CPU = ["--gpus", "none", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def log_dirs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Any:
    """The log_dir of a finished job of a task; each task's job runs once."""
    finished: dict[str, Path] = {}

    def log_dir(task: str) -> Path:
        if task not in finished:
            folder = tmp_path_factory.mktemp(task) / "out"
            # Of YOLOv3 nothing scores enough to be reported before the third.
            values = config(task, folder, data, epochs=3 if task == "yolov3" else 1, lr_decay_epoch="")
            values["valid"] = {"pictures": 2} | ({"score_thresh": 0.01} if KIND[task] == "boxes" else {})
            values["export"] = {"onnx": task == "reid"}
            assert fit(SCRIPTS[task], values).status == 0
            finished[task] = folder
        return finished[task]

    return log_dir


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "predictions.json").read_text()))


@pytest.mark.parametrize("task", EVERY_SCRIPT)
def test_a_finished_job_s_model_says_the_same_again(
    task: str, log_dirs: Any, data: Path, tmp_path: Path
) -> None:
    job, folder = log_dirs(task), data / f"{KIND[task]}_valid"
    written = json.loads((job / "valid_data_result.json").read_text())
    own = json.loads((job / "valid_evaluation.json").read_text())
    assert (job / "report.html").read_text().startswith("<!doctype html>")

    assert (
        evaluate([str(job), "--data", str(folder), "--out", str(tmp_path / "e"), "--batch", "4", *CPU]) == 0
    )
    again = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (tmp_path / "e" / "report.html").is_file()
    known = {name: value for name, value in own["figures"].items() if task != "reid" or name != "accuracy"}
    assert again["figures"] == known
    named = {
        "mAP": "mAP",
        "accuracy": "Accuray",
        "RMSE": "RMSE",
        "NME": "NME",
        "rank1": "Rank1",
        "rank5": "Rank5",
    }
    flat = {**written, **{key: value for part in written.get("AP", ()) for key, value in part.items()}}
    compared = [name for name, key in named.items() if name in own["figures"] and key in flat]
    assert compared
    for name in compared:
        value = own["figures"][name]
        assert flat[named[name]] in (value, repr(value), "nan" if value is None else value), name

    score = ["--score", "0.01"] if KIND[task] == "boxes" else []
    assert predict([str(job), str(folder), "--out", str(tmp_path / "p"), "--batch", "4", *score, *CPU]) == 0
    found = {row["image"]: row for row in result(tmp_path / "p")["Result"]}
    assert len(found) == len(written["Result"])
    for row in written["Result"]:
        same = {key: value for key, value in row.items() if key not in ("groundtruth", "result")}
        if task == "reid":  # what is exported knows no identities
            same = {"image": row["image"]}
        assert found[row["image"]] == same


def test_whatever_lies_in_a_folder_has_a_row(log_dirs: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    for name in ("UPPER.JPG", "name with 漢字.png", "alpha.png", "one.bmp"):
        picture = Image.fromarray(noise)
        (picture.convert("RGBA") if name == "alpha.png" else picture).save(folder / name)
    (folder / "half.png").write_bytes((folder / "alpha.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("of no interest")
    (folder / ".hidden.png").write_bytes((folder / "alpha.png").read_bytes())
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (90, 60))
    for _ in range(5):
        video.write(noise)
    video.release()
    (folder / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    arguments = [
        str(log_dirs("yolov3")),
        str(tmp_path / "in"),
        "--out",
        str(out),
        "--batch",
        "2",
        "--score",
        "0.001",
    ]
    assert predict([*arguments, "--pictures", *CPU]) == 0
    rows = result(out)["Result"]
    by_name = {Path(row["image"]).name: row for row in rows if row.get("frame", 0) == 0}
    assert len(rows) == 4 + 2 + 5 + 1
    assert [row["frame"] for row in rows if "frame" in row] == [0, 1, 2, 3, 4]
    for name in ("half.png", "text.jpg", "broken.mp4"):
        assert by_name[name]["error"]
        assert "objects" not in by_name[name]
    # The same pixels, whatever the file is called or however it is packed.
    alike = [by_name[name]["objects"] for name in ("name with 漢字.png", "alpha.png", "one.bmp")]
    assert alike[0] == alike[1] == alike[2] != []
    drawn = {path.relative_to(out / "pictures").as_posix() for path in (out / "pictures").rglob("*.jpg")}
    assert drawn == {
        *("name with 漢字.png.jpg", "alpha.png.jpg", "one.bmp.jpg"),
        *(f"clip.avi/00000{number}.jpg" for number in range(5)),
    }
    assert [path.name for path in (out / "pictures").iterdir() if path.suffix == ".JPG"] == ["UPPER.JPG"]


def test_predictions_are_labels_that_the_job_reads_again(log_dirs: Any, data: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", log_dirs("yolov3")
    (tmp_path / "a").mkdir()
    shutil.copy(data / "boxes_valid" / "dark0.png", tmp_path / "a" / "x.png")
    Image.open(data / "boxes_valid" / "dark1.png").save(tmp_path / "a" / "x.jpg")
    assert (
        predict([str(model), str(tmp_path / "a"), "--out", str(out), "--score", "0.01", "--as", "txt", *CPU])
        == 0
    )
    written = sorted(path.name for path in (out / "labels").iterdir())
    assert written == ["classes.txt", "x-2.png", "x-2.txt", "x.jpg", "x.txt"]
    rows = {Path(row["image"]).name: row["objects"] for row in result(out)["Result"]}
    assert len((out / "labels" / "x-2.txt").read_text().split()) == len(rows["x.png"]) > 0
    assert evaluate([str(model), "--data", str(out / "labels"), "--out", str(tmp_path / "e"), *CPU]) == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(log_dirs: Any, data: Path, tmp_path: Path) -> None:
    picture = data / "classes_valid" / "dark" / "dark0.png"

    def peak(count: int) -> int:
        folder, out = tmp_path / f"{count}", tmp_path / f"out{count}"
        folder.mkdir()
        for number in range(count):
            os.link(picture, folder / f"{number:04d}.png")
        words = [str(log_dirs("reid")), str(folder), "--out", str(out), "--as", "txt", "--engine", "onnx"]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert predict([*words, "--batch", "32", "--workers", "0"]) == 0
        with np.load(out / "embeddings.npz") as arrays:
            assert len(arrays["images"]) == count
        return tracemalloc.get_traced_memory()[1] - before

    peak(1)
    tracemalloc.start()
    try:
        # From a thousand images on: so many are under way together.
        few, many = peak(1030), peak(1530)
    finally:
        tracemalloc.stop()
    # The name of its file; an embedding alone has 5 kB.
    assert (many - few) / 500 < 500


def test_a_gallery_is_searched(log_dirs: Any, data: Path, tmp_path: Path) -> None:
    gallery = data / "classes_train"
    out = tmp_path / "out"
    image = gallery / "light" / "light3.png"
    assert (
        predict([str(log_dirs("reid")), str(image), "--gallery", str(gallery), "--out", str(out), *CPU]) == 0
    )
    [row] = result(out)["Result"]
    assert row["nearest"][0]["image"] == str(image)
    assert row["nearest"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert (row["class"], len(row["nearest"])) == ("light", 5)
    with np.load(out / "embeddings.npz") as arrays:
        assert arrays["images"].tolist() == [str(image)]
        assert np.linalg.norm(arrays["embeddings"], axis=1) == pytest.approx(1.0, abs=1e-5)


def test_boxes_are_predicted_one_by_one(log_dirs: Any, data: Path, tmp_path: Path) -> None:
    image = data / "classes_valid" / "dark" / "dark0.png"
    boxes = tmp_path / "boxes.json"
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box}
        for number, box in enumerate([[0, 0, 20, 20], [5, 6, 30, 30]])
    ]
    coco = {
        "images": [{"id": 1, "file_name": image.name}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    boxes.write_text(json.dumps(coco))
    out = tmp_path / "out"
    assert (
        predict([str(log_dirs("classification")), str(image), "--boxes", str(boxes), "--out", str(out), *CPU])
        == 0
    )
    assert [row["bbox"] for row in result(out)["Result"]] == [
        "0.000000, 0.000000, 20.000000, 20.000000",
        "5.000000, 6.000000, 35.000000, 36.000000",
    ]


def coco(folder: Path, names: list[str]) -> dict[str, Any]:
    """What the texts of a folder say, as COCO."""
    images, annotations = [], []
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        images.append({"id": number, "file_name": path.name, "width": 40, "height": 40})
        label, x1, y1, x2, y2 = (float(value) for value in path.with_suffix(".txt").read_text().split(","))
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 10 + int(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
        )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 10 + label, "name": name} for label, name in enumerate(names)],
    }


def test_labels_in_another_format_are_judged_alike(log_dirs: Any, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(data / "boxes_valid", folder)
    # Classes by name, whatever their ids; one that the model does not have counts as absent.
    (tmp_path / "labels.json").write_text(json.dumps(coco(data / "boxes_valid", ["dark", "light"])))
    for path in folder.glob("*.txt"):
        path.unlink()
    arguments = [str(log_dirs("yolov3")), "--data", str(folder), "--batch", "4", *CPU]
    given = ["--annotations", str(tmp_path / "labels.json"), "--format", "coco"]
    assert evaluate([*arguments, *given, "--out", str(tmp_path / "a")]) == 0
    own = json.loads((log_dirs("yolov3") / "valid_evaluation.json").read_text())
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text())["figures"] == own["figures"]

    (tmp_path / "labels.json").write_text(json.dumps(coco(data / "boxes_valid", ["dark", "else"])))
    assert evaluate([*arguments, *given[:2], "--out", str(tmp_path / "b")]) == 0
    document = json.loads((tmp_path / "b" / "evaluation.json").read_text())
    assert document["by_class"]["light"]["objects"] == 0
    assert document["by_class"]["dark"] == own["by_class"]["dark"]

    # Names beside txt say which class an id is, whatever id the model has for it.
    for path in (data / "boxes_valid").glob("*.txt"):
        lines = path.read_text().split()
        (folder / path.name).write_text("\n".join(f"{1 - int(line[0])}{line[1:]}" for line in lines))
    (folder / "classes.txt").write_text("light\ndark\n")
    assert evaluate([*arguments, "--out", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c" / "evaluation.json").read_text())["figures"] == own["figures"]


def test_queries_are_looked_for_in_a_gallery_by_the_rules_of_cameras(
    log_dirs: Any, data: Path, tmp_path: Path
) -> None:
    query, gallery = tmp_path / "query", tmp_path / "bounding_box_test"
    for folder in (query, gallery):
        folder.mkdir()
    images = sorted((data / "classes_train" / "light").glob("*.png"))
    for place, names in {
        query: ["0001_c1s1_000001_01"],
        gallery: ["0001_c1s1_000002_01", "0000_c2s1_000003_01", "0001_c2s1_000004_01"],
    }.items():
        for name, image in zip(names, images, strict=False):
            shutil.copy(image, place / f"{name}.png")
    arguments = [str(log_dirs("reid")), "--data", str(query), "--gallery", str(gallery)]
    assert evaluate([*arguments, "--out", str(tmp_path / "out"), *CPU]) == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["figures"]["queries"] == 1
    [worst] = document["worst"] or [{"neighbours": [None] * 2}]
    # The same picture by the query's own camera is left out: what is left is a distractor, and the person.
    assert len(worst["neighbours"]) == 2
    assert document["figures"]["mAP"] in (0.5, 1.0)


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["MODEL", "nowhere", "--out", "OUT"], "IMAGES: nowhere does not exist", 2),
        (["nowhere", "IMAGE", "--out", "OUT"], "nowhere does not exist", None),
        (["MODEL", "IMAGE", "--out", "FULL"], "is not empty", 2),
        (["MODEL", "IMAGE", "--out", "OUT", "--gpus", "a"], "--gpus: 'a'", 2),
        (["MODEL", "IMAGE", "--out", "OUT", "--batch", "0"], "--batch: 0", 2),
        (["MODEL", "IMAGE", "--out", "OUT", "--score", "7"], "--score: 7", 2),
        (["MODEL", "IMAGE", "--out", "OUT", "--gallery", "FULL"], "--gallery", 2),
        (["MODEL", "IMAGE", "--out", "OUT", "--as", "csv"], "--as csv: cannot hold detection", 2),
        (["MODEL", "BAD", "--out", "OUT"], "nothing could be predicted", None),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(
    arguments: list[str],
    said: str,
    status: int | None,
    log_dirs: Any,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    words = {
        "MODEL": str(log_dirs("yolov3")),
        "IMAGE": str(data / "boxes_valid" / "dark0.png"),
        "BAD": str(bad),
        "OUT": str(tmp_path / "out"),
        "FULL": str(data),
    }
    found = predict([*(words.get(word, word) for word in arguments), "--workers", "1"])
    assert found == status if status is not None else found not in (0, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert "Traceback" not in "".join(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg"]


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_a_model_is_judged_by_labels_in_any_format(
    name: str, log_dirs: Any, data: Path, tmp_path: Path
) -> None:
    options = ["--to", name, "--classes", "dark,light"]
    assert convert([str(data / "boxes_valid"), str(tmp_path / "set"), *options]) == 0
    job, out = log_dirs("yolov3"), tmp_path / "out"
    words = [str(job), "--data", str(tmp_path / "set"), "--out", str(out), "--batch", "4", *CPU]
    assert evaluate(words) == 0
    own = json.loads((job / "valid_evaluation.json").read_text())
    assert json.loads((out / "evaluation.json").read_text())["figures"] == own["figures"]
