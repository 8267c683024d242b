"""Independent readers find the same boxes in the same files: globox and pycocotools, in an environment of their own.

Kubeflow's own schemas know every field of the manifests for it.

`make test-oracles` makes that environment; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common import convert
from tests.helpers.label_trees import SIZE, coco, images, opened, records, text, voc

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-oracles"
# ORACLES_PYTHON names another Python that has the readers.
ORACLES = os.environ.get("ORACLES_PYTHON") or (
    FOLDER / "bin" / "python" if (FOLDER / "ready").exists() else None
)
BLOOD_CELLS = ROOT / "tests" / "data" / "blood_cells" / "detect_valid"

pytestmark = pytest.mark.skipif(
    ORACLES is None, reason="no independent readers are installed: make test-oracles"
)

Boxes = dict[str, list[tuple[Any, ...]]]


def theirs(kind: str, *paths: Path) -> Boxes:
    """What an independent reader finds; classes as text."""
    command = [str(ORACLES), ROOT / "tests" / "oracles" / "read.py", kind, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {Path(name).name: [tuple(row) for row in rows] for name, rows in found.items()}


def ours(folder: Path, name: str, **options: Any) -> Boxes:
    found = opened(folder, format_name=name, **options)
    return {
        image: [(thing.label, *(thing.box or ())) for thing in record.objects if not thing.crowd]
        for image, record in records(found).items()
    }


def assert_same(found: Boxes, expected: Boxes, side: float, first: int = 0) -> None:
    """Boxes agree to a millionth of a side. first: what their reader leaves the first pixel counted as."""
    assert found.keys() == expected.keys()
    for image, rows in found.items():
        mine, others = (
            sorted(rows, key=lambda row: [str(row[0]), *row[1:]]) for rows in (rows, expected[image])
        )
        assert [str(row[0]) for row in mine] == [str(row[0]) for row in others], image
        for (_, x1, y1, x2, y2), (_, *box) in zip(mine, others, strict=True):
            assert (x1 + first, y1 + first, x2, y2) == pytest.approx(box, abs=1e-6 * side), image


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped set in every format that is written."""
    folder = tmp_path_factory.mktemp("converted")
    for name in ("coco", "voc", "yolo", "labelme"):
        options = ["--to", name, "--classes", "RBC,WBC,Platelets"]
        assert convert.main([str(BLOOD_CELLS), str(folder / name), *options]) == 0
    return folder


@pytest.mark.parametrize("reader", ["pycocotools", "coco"])
def test_coco(converted: Path, reader: str) -> None:
    file = next((converted / "coco" / "annotations").glob("*.json"))
    found = ours(converted / "coco", "coco")
    assert sum(map(len, found.values())) > 400
    assert_same(found, theirs(reader, file), 640)


@pytest.mark.parametrize("reader", ["pycocotools", "coco"])
def test_coco_with_gaps_folders_and_fractions(tmp_path: Path, reader: str) -> None:
    names = ["a.jpg", "sub/b.jpg"]
    images(tmp_path, *names)
    rows = [
        {"image_id": 1, "category_id": 90, "bbox": [10.25, 5.125, 20.5, 8.0625], "area": 1},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 80, 40], "area": 1},
        {"image_id": 2, "category_id": 3, "bbox": [1 / 3, 0.1, 80 / 7, 39.7], "area": 1},
    ]
    file = text(tmp_path / "_annotations.coco.json", coco(names, rows, {90: "dog", 3: "cat"}))
    assert_same(ours(tmp_path, "coco"), theirs(reader, file), SIZE[0])


def test_voc(converted: Path) -> None:
    # Their reader leaves coordinates as they are: they count from 1.
    assert_same(
        ours(converted / "voc", "voc"), theirs("pascal_voc", converted / "voc" / "Annotations"), 640, first=1
    )


def test_voc_as_others_write_it(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(tmp_path / "a.xml", voc(("cat", 0, 3, 60, 30), ("dog", 5.5, 1, 70.25, 39)))
    assert_same(ours(tmp_path, "voc"), theirs("pascal_voc", tmp_path), SIZE[0])


def test_yolo(converted: Path) -> None:
    folder = converted / "yolo"
    numbers = {"RBC": 0, "WBC": 1, "Platelets": 2}
    found = {
        image: [(numbers[label], *box) for label, *box in rows]
        for image, rows in ours(folder, "yolo").items()
    }
    assert_same(found, theirs("yolo", folder / "labels", folder / "images"), 640)


def test_labelme(converted: Path) -> None:
    assert_same(ours(converted / "labelme", "labelme"), theirs("labelme", converted / "labelme"), 640)


def test_cvat(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    boxes = "".join(
        f'<box label="cat" xtl="{x}.25" ytl="{x + 1}.50" xbr="{x + 20}.75" ybr="{x + 9}.00" occluded="0"></box>'
        for x in range(8)
    )
    file = text(
        tmp_path / "annotations.xml",
        f'<annotations><image id="0" name="a.jpg" width="80" height="40">{boxes}</image>'
        '<image id="1" name="b.jpg" width="80" height="40"></image></annotations>',
    )
    assert_same(ours(tmp_path, "cvat"), theirs("cvat", file), SIZE[0])


def _unknown(*manifests: Path) -> list[str]:
    command = [str(ORACLES), ROOT / "tests" / "oracles" / "manifests.py", *manifests]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_kubeflow_knows_every_field_of_the_manifests_for_it(tmp_path: Path) -> None:
    names = ("kubeflow-trainjob.yaml", "kubeflow-pytorchjob.yaml")
    assert _unknown(*(ROOT / "configs" / name for name in names)) == []
    for name, right, wrong in zip(names, ("numNodes", "nprocPerNode"), ("numNode", "nProc"), strict=True):
        (tmp_path / name).write_text((ROOT / "configs" / name).read_text().replace(right, wrong))
        assert any(f".{wrong}" in line for line in _unknown(tmp_path / name))
