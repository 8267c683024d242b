"""Coloured images in class folders, and configurations for them; for tests of classification and ReID."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.loading.loader import Batch

COLOURS = {
    "blue": (200, 60, 40),
    "green": (40, 190, 60),
    "red": (50, 40, 210),
    "white": (230, 225, 235),
}  # BGR
WIDTH, HEIGHT = 64, 48


def draw(folder: Path, classes: Sequence[str], count: int, seed: int = 0) -> Path:
    """`count` images a class, of the colour that the class is named after, in several sizes."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width, height = rng.integers(40, 90, 2).tolist()
            image = np.clip(np.array(COLOURS[name]) + rng.normal(0, 25, (height, width, 3)), 0, 255)
            cv2.imwrite(str(folder / name / f"{number:03}.png"), image.astype(np.uint8))
    return folder


def keys(data: Path, log_dir: Path, **more: Any) -> dict[str, Any]:
    """A job of seconds; more: SECTION__KEY=value."""
    values: dict[str, Any] = {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {"data_root": str(data), "train_dir": "train", "valid_dir": "valid"},
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {
            "epochs": 2,
            "lr": 0.002,
            "batch_size": 8,
            "input_width": WIDTH,
            "input_height": HEIGHT,
            "num_workers": 1,
        },
    }
    for path, value in more.items():
        section, _, key = path.partition("__")
        values[section][key] = value
    return values


def batch(
    epoch: int = 0,
    number: int = 0,
    rows: int = 6,
    classes: int = 3,
    seed: int = 0,
    plain: bool = False,
) -> Batch:
    """Random images with labels 0, 1, 2, 0, ..."""
    rng = np.random.default_rng(seed)
    arrays = {
        "image": rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8),
        "label": (np.arange(rows) % classes).astype(np.float32),
    }
    return Batch(arrays, np.arange(rows), rows, (WIDTH, HEIGHT), [], epoch, number, plain)
