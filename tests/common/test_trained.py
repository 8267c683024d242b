"""A finished model is opened, also one of version 1.2.0; a folder that is none is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ModelError
from common.images.resize import Resize
from common.trained import KINDS, read_card

CARD: dict[str, Any] = {
    "symbol": "yolo3_mobilenet1.0_custom-symbol.json",
    "params": "yolo3_mobilenet1.0_custom-0000.params",
    "input": {"name": "data", "width": 320, "height": 256, "mean": [0.5] * 3, "std": [0.2] * 3},
    "classes": ["猫", "dog"],
    "resize": "stretched to width x height, whatever the aspect ratio",
    "outputs": [{"name": "ids", "shape": ["batch", 100, 1]}],
}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "model.json").write_text(json.dumps({**CARD, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_of_1_2_0_says_by_its_file_names_what_it_is(tmp_path: Path, kind: Any) -> None:
    card = read_card(written(tmp_path, symbol=f"{kind.prefix}x-symbol.json"))
    assert (card.task, card.resize, card.shape) == (kind.name, kind.resize, (320, 256))
    assert read_card(tmp_path / "model.json") == card
    assert card.reading().decoder


def test_a_card_of_today_says_it_itself(tmp_path: Path) -> None:
    resize = Resize("letterbox", 1.0, (1, 2, 3))
    card = read_card(written(tmp_path, task="yolov3", symbol="mine.json", resize=resize.as_json()))
    assert (card.task, card.resize, card.classes) == ("yolov3", resize, ["猫", "dog"])


def test_with_a_mirrored_graph_that_one_is_used(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).touch()
    assert (
        read_card(written(tmp_path, symbol="yolo3_a.json", flip_test={"symbol": "b.json"})).graph.name
        == "b.json"
    )
    (tmp_path / "yolo3_a.json").touch()
    assert (
        read_card(written(tmp_path, symbol="yolo3_a.json", flip_test={"symbol": None})).graph.name
        == "yolo3_a.json"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "poetry"}, "task is 'poetry'; known are yolov3"),
        ({"symbol": "x"}, "it names no task"),
        ({"input": {}}, "input, resize or classes"),
        ({"input": {"width": -1, "height": 2}}, "input and classes"),
        ({"classes": 3}, "input, resize or classes"),
        ({"classes": [3]}, "input and classes"),
        ({"resize": {"mode": "fold"}}, "resize is"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_line(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        read_card(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_log_dir_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "cats.onnx"
    folder.mkdir()
    written(folder)
    assert read_card(folder).folder == folder


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no job has finished there"):
        read_card(tmp_path)
    with pytest.raises(ModelError, match=r"a job's log_dir, its model\.json or an ONNX file"):
        read_card(tmp_path / "nothing.json")
    (tmp_path / "best_checkpoint.pkl").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=r"best_checkpoint\.pkl: MODEL is a job's log_dir"):
        read_card(tmp_path / "best_checkpoint.pkl")
    for content in (b"\xff\xfe", b"[1]", b"{", b"[" * 100_000):
        (tmp_path / "model.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"is no model\.json"):
            read_card(tmp_path)


@pytest.mark.parametrize("name", ["../a.params", "/etc/passwd", "a\0b", 3, None])
def test_files_are_those_beside_the_card(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ModelError, match="must name a file beside it"):
        read_card(written(tmp_path, params=name)).file("params")
    with pytest.raises(ModelError, match="is missing"):
        read_card(written(tmp_path)).file("params")
