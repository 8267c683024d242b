"""What stands beside an image becomes objects, or a report that says where and why not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.samples import BadSample, Problem, Sample
from common.errors import DataError
from detect.annotations import HIGHEST_ID, DetectionAnnotations, summary


def read(
    folder: Path, text: str, size: tuple[int, int] = (100, 80), class_count: int | None = 3
) -> tuple[list[list[float]], list[Problem]]:
    """Objects and notes of an image 1.jpg of `size` with `text` beside it."""
    (folder / "1.txt").write_text(text, encoding="utf-8")
    arrays, problems = DetectionAnnotations(class_count)(str(folder / "1.jpg"), *size)
    assert len(arrays) == 1
    assert arrays[0].dtype == np.float32
    assert arrays[0].shape[1:] == (5,)
    assert all(problem.file == str(folder / "1.txt") for problem in problems)
    return arrays[0].tolist(), problems


def bad(folder: Path, text: str, class_count: int | None = 3) -> Problem:
    """The first reason why an image with `text` beside it is left out."""
    with pytest.raises(BadSample) as caught:
        read(folder, text, class_count=class_count)
    first = caught.value.problems[0]
    assert first.file == str(folder / "1.txt")
    return first


def test_every_line_is_an_object(tmp_path: Path) -> None:
    objects, problems = read(tmp_path, "0,1,2,3,4\n2, 10.5, 20, 30.25, 40\n\n1.0,0,0,100,80\n")
    assert objects == [[0, 1, 2, 3, 4], [2, 10.5, 20, 30.25, 40], [1, 0, 0, 100, 80]]
    assert problems == []


@pytest.mark.parametrize("line", ["-1,-1,-1,-1,-1", "-1，-1，-1，-1，-1\n", "-1.0,-1,-1,-1,-1\n\n"])
def test_the_negative_line_is_an_image_without_objects(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line) == ([], [])


def test_full_width_commas_are_commas(tmp_path: Path) -> None:
    assert read(tmp_path, "1，1，2，3，4")[0] == [[1, 1, 2, 3, 4]]


def test_a_missing_file_leaves_the_image_out(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"2\.txt"):
        DetectionAnnotations(3)(str(tmp_path / "2.jpg"), 10, 10)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0,1,2,3", 1),
        ("0,1,2,3,4,5", 1),
        ("0,1,2,3,4\nnonsense", 2),
        ("0,1,2,3,x", 1),
        ("0,1,2,3,nan", 1),
        ("0,1,2,3,inf", 1),
        ("\n\n0.5,1,2,3,4", 3),
        ("-2,1,2,3,4", 1),
        ("-1,1,2,3,4", 1),
        ("0,1,2,3,4\n-1,-1,-1,-1,-1", 2),
        ("", None),
        ("\n \n", None),
    ],
)
def test_a_malformed_file_leaves_the_image_out_and_names_the_line(
    tmp_path: Path, text: str, line: int | None
) -> None:
    assert bad(tmp_path, text).line == line


def test_a_report_says_what_the_line_held(tmp_path: Path) -> None:
    assert "nonsense" in bad(tmp_path, "nonsense").reason
    assert "0.5,1,2,3,4" in bad(tmp_path, "0.5,1,2,3,4").reason
    assert "-1,-1,-1,-1,-1" in bad(tmp_path, "").reason


@pytest.mark.parametrize("class_id", [3, 4, 90])
def test_a_class_id_beyond_the_classes_ends_the_job_and_names_the_line(tmp_path: Path, class_id: int) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"0,1,2,3,4\n{class_id},1,2,3,4")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / '1.txt'}:2: class id {class_id} ")
    assert "0 to 2" in message
    assert "\n" not in message


def test_without_named_classes_any_sane_id_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, f"{HIGHEST_ID},1,2,3,4", class_count=None)[0][0][0] == HIGHEST_ID
    assert str(HIGHEST_ID) in bad(tmp_path, f"{HIGHEST_ID + 1},1,2,3,4", class_count=None).reason


@pytest.mark.parametrize("line", ["0,0,0,100,80", "0,99,79,100,80", "0,0,0,1,1"])
def test_a_box_that_touches_the_edges_is_no_problem(tmp_path: Path, line: str) -> None:
    objects, problems = read(tmp_path, line)
    assert objects == [[float(value) for value in line.split(",")]]
    assert problems == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,-5,10,50,60", [1, 0, 10, 50, 60]),
        ("1,5,-10,50,60", [1, 5, 0, 50, 60]),
        ("1,5,10,100.5,60", [1, 5, 10, 100, 60]),
        ("1,-1e30,-7,1e30,99", [1, 0, 0, 100, 80]),
    ],
)
def test_a_box_that_sticks_out_is_clipped_and_reported(tmp_path: Path, line: str, expected: list) -> None:
    objects, problems = read(tmp_path, "0,1,2,3,4\n" + line)
    assert objects == [[0, 1, 2, 3, 4], expected]
    (problem,) = problems
    assert problem.line == 2
    assert problem.clipped
    assert "sticks out of the 100x80 image; clipped" in problem.reason


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("10,10,10,20", "without area"),
        ("10,10,20,10", "without area"),
        ("120,10,110,20", "outside of the 100x80 image"),
        ("-20,10,-1,20", "outside of the 100x80 image"),
        ("10,90,20,95", "outside of the 100x80 image"),
        ("50,10,50.00000001,20", "without area"),
    ],
)
def test_a_box_without_area_in_the_image_is_left_out_alone(tmp_path: Path, box: str, reason: str) -> None:
    objects, problems = read(tmp_path, f"0,1,2,3,4\n1,{box}\n2,5,6,7,8")
    assert [row[0] for row in objects if row[0] >= 0] == [0, 2]
    # Where it may be is known but for what lies outside.
    assert [row[0] for row in objects if row[0] < 0] == ([] if "outside" in reason else [-1])
    (problem,) = problems
    assert problem.line == 2
    assert not problem.clipped
    assert reason in problem.reason
    assert box in problem.reason


def test_an_image_of_which_no_object_is_left_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("\n0,10,10,10,20\n0,200,10,210,20")
    with pytest.raises(BadSample) as caught:
        DetectionAnnotations(3)(str(tmp_path / "1.jpg"), 100, 80)
    first, second, whole = caught.value.problems
    assert (first.line, second.line, whole.line) == (2, 3, None)
    assert whole.file == str(tmp_path / "1.jpg")
    assert "none of its objects is left" in whole.reason


def test_the_reader_can_be_sent_to_workers(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("0,1,2,3,4")
    arrays, _ = pickle.loads(pickle.dumps(DetectionAnnotations(1)))(str(tmp_path / "1.jpg"), 9, 9)
    assert arrays[0].tolist() == [[0, 1, 2, 3, 4]]


number = st.one_of(
    st.integers(-5, 120).map(str), st.floats(-200, 200).map(str), st.sampled_from(["", "nan", "-1", "1e400"])
)
lines = st.lists(number, min_size=3, max_size=7).map(",".join)
texts = st.one_of(st.lists(lines, max_size=5).map("\n".join), st.text(max_size=60))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(1, 100), st.integers(1, 100), st.sampled_from([None, 1, 5]))
def test_whatever_the_file_holds_there_are_boxes_inside_the_image_or_a_reason(
    tmp_path: Path, text: str, width: int, height: int, class_count: int | None
) -> None:
    path = tmp_path / "1.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    complaint = ""
    array, problems = np.empty((0, 5)), []
    try:
        (array,), problems = DetectionAnnotations(class_count)(str(tmp_path / "1.jpg"), width, height)
    except (BadSample, DataError) as error:
        complaint = str(error)
    assert not complaint or complaint.startswith(f"{path}:")
    assert "\n" not in complaint
    assert np.isfinite(array).all()
    assert (array[:, 0] == array[:, 0].astype(int)).all()
    assert (array[:, 1:3] >= 0).all()
    assert (array[:, 3:] <= (width, height)).all()
    assert (array[:, 3:] > array[:, 1:3]).all()
    assert all(problem.line for problem in problems)


def sample(*rows: list[float], size: tuple[int, int] = (100, 80)) -> Sample:
    return Sample("1.jpg", *size, np.array(rows, np.float32).reshape(-1, 5))


def test_the_summary_counts_and_measures_by_class() -> None:
    samples = [
        sample([0, 0, 0, 10, 20], [0, 0, 0, 20, 20], [1, 5, 5, 55, 45]),
        sample([0, 0, 0, 40, 8]),
        sample(),
    ]
    found = summary(samples, ["dog", "cat"])
    assert found["objects"] == 4
    assert found["images_without_objects"] == 1
    assert found["most_objects_in_an_image"] == 3
    assert found["classes"]["dog"] == {
        "id": 0,
        "objects": 3,
        "images": 2,
        "width": {"min": 10.0, "median": 20.0, "max": 40.0},
        "height": {"min": 8.0, "median": 20.0, "max": 20.0},
        "area": {"min": 0.025, "median": 0.04, "max": 0.05},
    }
    assert found["classes"]["cat"]["images"] == 1
    assert found["warnings"] == []
    assert json.loads(json.dumps(found)) == found


def test_the_summary_of_nothing_is_no_error() -> None:
    for samples in ([], [sample()]):
        found = summary(samples, ["dog"])
        assert found["objects"] == 0
        assert found["classes"]["dog"]["width"] is None
        assert found["warnings"] == ["no image shows an object"]


def warnings(samples: list[Sample], names: list[str]) -> str:
    return " | ".join(summary(samples, names)["warnings"])


def test_the_summary_warns_of_a_class_without_objects() -> None:
    text = warnings([sample([1, 0, 0, 9, 9])], ["dog", "cat", "cow"])
    assert "no object of 2 of the 3 classes: dog, cow" in text


def test_the_summary_warns_of_uneven_classes() -> None:
    rows = [[0, 0, 0, 9, 9]] * 10 + [[2, 0, 0, 9, 9]]
    assert "uneven classes: 10 objects of dog, 1 of cow" in warnings([sample(*rows)], ["dog", "cat", "cow"])
    assert "uneven" not in warnings([sample(*rows[1:])], ["dog", "cat", "cow"])


def test_the_summary_warns_of_tiny_boxes() -> None:
    rows = [[0, 0, 0, 1.5, 9], [0, 0, 0, 9, 1], [0, 0, 0, 2, 2]]
    assert "2 of 3 boxes are less than 2 pixels wide or high" in warnings([sample(*rows)], ["dog"])


def test_the_summary_warns_of_ids_without_a_name() -> None:
    assert "class ids without a name: 2, 7" in warnings([sample([7, 0, 0, 9, 9], [2, 0, 0, 9, 9])], ["dog"])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["bccd", "microcontroller"])
def test_real_sets_are_read_with_hardly_a_problem(shared_data: Path, name: str) -> None:
    classes = (shared_data / name / "classes.txt").read_text(encoding="utf-8").split()
    reader = DetectionAnnotations(len(classes))
    texts = sorted((shared_data / name / "detect_train").rglob("*.txt"))
    left_out = 0
    for path in texts:
        try:
            _, problems = reader(str(path.with_suffix(".jpg")), 10_000, 10_000)
        except BadSample:
            left_out += 1
        else:
            left_out += len(problems)
    assert len(texts) > 50
    assert left_out <= 2
