"""A model used by somebody who has its files and `model.json` alone: plain MXNet, OpenCV and NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from common.data.samples import Sample
from common.images.decoding import decode
from common.processes.pool import WorkerPool
from common.trained import open_compute, open_predictor, read_card
from common.training.checkpoint import read_checkpoint


def shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As "interpolation" says in words."""
    height, width = image.shape[:2]
    halves = size[0] <= width / 2, size[1] <= height / 2
    between = size[0] if halves[0] else width, size[1] if halves[1] else height
    image = cv2.resize(image, between, interpolation=cv2.INTER_AREA) if any(halves) else image
    return image if between == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def prepared(
    card: dict[str, Any], path: str, box: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The input (1, 3, H, W) that model.json describes, and the map (2, 3) back to pixels of the image."""
    size, resize = (card["input"]["width"], card["input"]["height"]), card["resize"]
    image = cv2.imread(path)[:, :, ::-1]
    height, width = image.shape[:2]
    x, y, left, top, drawn = 0, 0, 0, 0, size
    if box is not None:
        x, y, right, bottom = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
        image = image[y:bottom, x:right]
    elif resize["mode"] == "letterbox":
        scale = min(size[0] / width, size[1] / height)
        drawn = round(scale * width), round(scale * height)
        left, top = (size[0] - drawn[0]) // 2, (size[1] - drawn[1]) // 2
    elif resize["mode"] == "centre_crop":
        wide = round(min(width, height * size[0] / size[1]) * resize["share"])
        high = round(min(height, width * size[1] / size[0]) * resize["share"])
        x, y = (width - wide) // 2, (height - high) // 2
        image = image[y : y + high, x : x + wide]
    canvas = np.full((size[1], size[0], 3), resize["fill"], np.uint8)
    canvas[top : top + drawn[1], left : left + drawn[0]] = shrunk(np.ascontiguousarray(image), drawn)
    scales = image.shape[1] / drawn[0], image.shape[0] / drawn[1]
    back = np.array([[scales[0], 0, x - scales[0] * left], [0, scales[1], y - scales[1] * top]])
    pixels = (canvas / 255 - np.array(card["input"]["mean"])) / np.array(card["input"]["std"])
    return pixels.transpose(2, 0, 1)[None].astype(np.float32), back


def outputs(
    log_dir: Path, card: dict[str, Any], pixels: np.ndarray, graph: str | None = None
) -> list[np.ndarray]:
    """What the exported model (or another graph of its parameters) gives."""
    network = mx.gluon.SymbolBlock.imports(
        str(log_dir / (graph or card["symbol"])), ["data"], str(log_dir / card["params"])
    )
    found = network(mx.nd.array(pixels))
    return [array.asnumpy() for array in (found if isinstance(found, (list, tuple)) else [found])]


def reopened(log_dir: Path, which: str = "valid") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a job's result file, and those that its model gives when it is opened from its folder."""
    card = read_card(log_dir)
    reading = card.reading()
    predictor = open_predictor(card, open_compute(card, "mxnet", []), reading)
    written = json.loads((log_dir / f"{which}_data_result.json").read_text())["Result"]
    samples = []
    for row in written:
        size = decode(row["image"])[1]
        box = [float(edge) for edge in row["bbox"].split(", ")] if "bbox" in row else []
        annotation = np.zeros((1, 2)) if "keypoints" in row else np.array([0, *box])
        samples.append(Sample(row["image"], *size, annotation.astype(np.float32)))
    configuration = read_checkpoint(log_dir / "best_checkpoint.pkl", card.task)["configuration"]
    with (
        WorkerPool(1) as pool,
        predictor.loader(samples, pool, configuration["train"]["batch_size"]) as loader,
    ):
        predictions = predictor.predict(loader)
    return written, [reading.decoder.row(samples[index], predictions[index]) for index in range(len(samples))]
