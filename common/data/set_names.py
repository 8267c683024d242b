"""Under which names the sets of an export lie."""

from __future__ import annotations

import os

SET_NAMES = {
    "train": (
        "train",
        "train2017",
        "detect_train",
        "classification_train",
        "landmark_train",
        "bounding_box_train",
    ),
    "valid": (
        "valid",
        "val",
        "val2017",
        "validation",
        "detect_valid",
        "classification_valid",
        "landmark_valid",
    ),
    "test": ("test", "test2017", "detect_test", "classification_test", "landmark_test"),
}
"""Names of folders by set; the first that is there is taken."""


def set_folders(source: str) -> dict[str, str]:
    """Folders of the sets of an export by set, relative to it: below it, else below its `images`; {} for none."""
    for base in ("", "images"):
        found: dict[str, str] = {}
        for part, names in SET_NAMES.items():
            for name in names:
                folder = os.path.join(base, name)
                if part not in found and os.path.isdir(os.path.join(source, folder)):
                    found[part] = folder
        if found:
            return found
    return {}
