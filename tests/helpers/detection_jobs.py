"""A little of the shipped set; for tests of detection jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.helpers.jobs import ROOT

BLOOD_CELLS = ROOT / "tests" / "data" / "blood_cells"
NAMES = ["RBC", "WBC", "Platelets"]


def subset(folder: Path, train: int = 10, valid: int = 4) -> Path:
    """A small copy of the shipped set."""
    for name, count in (("detect_train", train), ("detect_valid", valid)):
        (folder / name).mkdir(parents=True)
        for image in sorted((BLOOD_CELLS / name).glob("*.jpg"))[:count]:
            shutil.copy(image, folder / name)
            shutil.copy(image.with_suffix(".txt"), folder / name)
    return folder
