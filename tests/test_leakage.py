"""Nothing of validation and test sets reaches the training: what is learnt is the same whatever they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.jobs import EVERY_SCRIPT, SCRIPTS, assert_same, finish, make_data, parameters, start


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training sets twice, beside validation and test sets of other images and other annotations."""
    first = make_data(tmp_path_factory.mktemp("first"), train=8)
    rng = np.random.default_rng(1)
    for folder in list(first.glob("*_valid")):
        other = folder.with_name(folder.name.replace("valid", "test"))
        shutil.copytree(folder, other)
        draw_anew(other, rng)
    second = tmp_path_factory.mktemp("second") / "data"
    shutil.copytree(first, second)
    for folder in (*second.glob("*_valid"), *second.glob("*_test")):
        draw_anew(folder, rng)
        for path in folder.rglob("*.txt"):
            boxes = folder.name.startswith("boxes")
            path.write_text("1,20,20,50,44\n" if boxes else "30,31\n1,2\n40,3\n")
    return first, second


def draw_anew(folder: Path, rng: np.random.Generator) -> None:
    """Other images under the same names."""
    for path in folder.rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)).save(path)


# The detectors take one way through a job: the cheapest of them stands for the others but in the long run.
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=pytest.mark.soak) if task in ("yolov3", "centernet") else case
        for task, case in zip(SCRIPTS, EVERY_SCRIPT, strict=True)
    ],
)
def test_other_validation_and_test_sets_change_nothing_of_what_is_learnt(
    task: str, tmp_path: Path, sets: tuple[Path, Path]
) -> None:
    kind = {"landmark": "points", "yolov3": "boxes", "centernet": "boxes", "ssd": "boxes"}.get(
        task, "classes"
    )
    learnt, results = [], []
    for number, data in enumerate(sets):
        log_dir = tmp_path / f"out{number}"
        test = f"dataset.test_dir={kind}_test"
        finish(start(task, log_dir, data, "--set", test, epochs=2))
        learnt.append(parameters(task, log_dir))
        results.append(json.loads((log_dir / "valid_data_result.json").read_text())["Result"])
    assert_same(*learnt)
    assert results[0] != results[1]
