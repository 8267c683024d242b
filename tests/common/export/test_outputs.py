"""A new job removes what the one before left, and nothing that is somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.export.outputs import remove_outputs

OURS = ["valid_data_result.json", "test_data_result.json", "model.json", "net-symbol.json", "net-0000.params"]
OTHERS = [
    "other-symbol.json",
    "other-0000.params",
    "notes.json",
    "best_checkpoint.pkl",
    "data_report.json",
    ".movie.mp4.123.part",
    ".other-0000.params.12.part",
]


def folder(path: Path, card: Any, *more: str) -> Path:
    for name in (*OURS, *OTHERS, *more):
        (path / name).write_text("{}")
    (path / "model.json").write_text(json.dumps(card))
    return path


def left(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_files_of_the_own_name_go_and_those_of_others_stay(tmp_path: Path) -> None:
    folder(tmp_path, {}, ".net-0000.params.12.part", "net-flip_test.json", "training_state.pkl")
    remove_outputs(tmp_path, "net", ["flip_test"], keep_state=False)
    assert left(tmp_path) == set(OTHERS)


def test_files_that_the_card_lists_go(tmp_path: Path) -> None:
    card = {
        "symbol": "yolo-symbol.json",
        "params": "yolo-0000.params",
        "files": ["yolo.onnx", "yolo-raw.onnx"],
        "flip_test": {"symbol": "yolo-flip_test.json"},
    }
    listed = ["yolo-symbol.json", "yolo-0000.params", "yolo.onnx", "yolo-raw.onnx", "yolo-flip_test.json"]
    folder(tmp_path, card, *listed, ".yolo.onnx.7.part")
    remove_outputs(tmp_path, "net", [], keep_state=False)
    assert left(tmp_path) == set(OTHERS)


@pytest.mark.parametrize(
    "card",
    [
        [],
        {
            "symbol": "../kept.json",
            "params": 7,
            "files": ["best_checkpoint.pkl", "/etc/passwd", None],
            "flip_test": 3,
        },
        {"files": {"a": "notes.json"}, "flip_test": {"symbol": ["notes.json"]}},
        {"symbol": "a\0.json", "params": ".movie.mp4.123.part"},
    ],
)
def test_a_card_of_anything_does_no_harm(tmp_path: Path, card: Any) -> None:
    log_dir = tmp_path / "out"
    log_dir.mkdir()
    (tmp_path / "kept.json").touch()
    folder(log_dir, card)
    remove_outputs(log_dir, "net", [], keep_state=False)
    assert left(log_dir) == set(OTHERS)
    assert (tmp_path / "kept.json").exists()


def test_the_state_stays_for_resume(tmp_path: Path) -> None:
    folder(tmp_path, {}, "training_state.pkl")
    remove_outputs(tmp_path, "net", [], keep_state=True)
    assert "training_state.pkl" in left(tmp_path)
