"""An ONNX file as the arithmetic of a Predictor: onnxruntime and NumPy, and neither MXNet nor the onnx package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from common.errors import ModelError

_GPU = "CUDAExecutionProvider"
# Boxes whose overlaps with all others are computed at once.
_ROWS = 256
# A file whose metadata are not there, or not ours, is told by its first missing key.
_KEYS = ("names", "task", "width", "height", "mean", "std", "resize")


class OnnxInference:
    """Computes uint8 images (B, H, W, 3) to the outputs that the task's decoder reads.

    metadata: what the file says of itself, as Python's values. shape: width and height of the input. outputs: shapes by
    name.
    """

    def __init__(
        self,
        model: Path | bytes,
        gpu: int | None = None,
        *,
        optimised: bool = True,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """gpu: id of the GPU that computes; None: the CPU. optimised: False begins in a third of the time, and takes
        half as long again for an image. constants: those of a model's that are external data, by name.
        Raises ModelError."""
        options = onnxruntime.SessionOptions()
        if constants:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in constants.values()]
            options.add_external_initializers(list(constants), values)
            self._constants = values  # the session reads them where they are
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        # Threads that have nothing to do leave the processors to the workers that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            providers.insert(0, (_GPU, {"device_id": gpu}))
        name = str(model) if isinstance(model, Path) else "the model"
        try:
            content = str(model) if isinstance(model, Path) else model
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise ModelError(f"{name}: no ONNX model that can be read: {_one_line(error)}") from None
        self.metadata = _metadata(self._session.get_modelmeta().custom_metadata_map, name)
        self._input = self._session.get_inputs()[0]
        self.outputs = {output.name: list(output.shape) for output in self._session.get_outputs()}
        try:
            self.shape = (int(self.metadata["width"]), int(self.metadata["height"]))
            self._table = normalisation_table(self.metadata["mean"], self.metadata["std"])
            usable = self._table.shape == (3, 256) and _is_suppression(self.metadata.get("nms"))
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise ModelError(
                f"{name}: its metadata's width, height, mean, std or nms are not those of a model of this project"
            )

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """See the class."""
        return readable(self.run(images), self.metadata.get("nms"))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the file by name."""
        if self._input.type == "tensor(uint8)":
            data = (
                images if self._input.shape[-1] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            )
        else:
            data = normalise(images, self._table)
        return dict(zip(self.outputs, self._session.run(None, {self._input.name: data}), strict=True))


def usable_gpus() -> bool:
    """Whether the onnxruntime that is installed computes on GPUs."""
    return _GPU in onnxruntime.get_available_providers()


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What each value of a channel becomes (3, 256), float32, computed in the order in which MXNet does it."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    channels = zip(np.asarray(mean, np.float32), np.asarray(std, np.float32), strict=True)
    return np.stack([(values - one) / other for one, other in channels])


def normalise(images: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Images (B, H, W, 3), uint8 RGB, to the network's input (B, 3, H, W), float32, by `normalisation_table`."""
    data = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
    for channel in range(3):
        np.take(table[channel], images[..., channel], out=data[:, channel], mode="clip")
    return data


def readable(outputs: Mapping[str, np.ndarray], nms: Mapping[str, Any] | None = None) -> list[np.ndarray]:
    """Outputs of a file, by name, as the task's decoder takes them. nms: the metadata of a raw file."""
    if "probabilities" in outputs:  # decoders take logits; these have the same softmax
        return [np.log(np.maximum(outputs["probabilities"], np.finfo(np.float32).tiny))]
    if "scores" in outputs and "ids" not in outputs:
        return list(suppressed(outputs["boxes"], outputs["scores"], **(nms or {})))
    return list(outputs.values())


def suppressed(
    boxes: np.ndarray,
    scores: np.ndarray,
    overlap: float = 0.45,
    score: float = 0.01,
    candidates: int = 400,
    detections: int = 100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw boxes (B, N, 4) and scores (B, N, C) to ids, scores (B, M, 1) and boxes (B, M, 4), as `NAME.onnx` has them.

    See `common.export.onnx.heads.Suppression`; M is `detections`, -1 fills up.
    """
    output = np.full((len(boxes), detections, 6), -1, np.float32)
    for image, (places, by_class) in enumerate(zip(boxes, scores, strict=True)):
        flat = by_class.T.reshape(-1)
        order = np.flatnonzero(flat > score)
        order = order[np.argsort(-flat[order], kind="stable")][:candidates]
        ids, rows = order // len(places), places[order % len(places)]
        kept = (np.arange(len(order)) if overlap >= 1 else _kept(ids, rows, overlap))[:detections]
        output[image, : len(kept)] = np.column_stack([ids[kept], flat[order[kept]], rows[kept]])
    return output[..., :1], output[..., 1:2], output[..., 2:]


def _kept(ids: np.ndarray, boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Places of the boxes (N, 4), best first, that no better one of the same class suppresses."""
    left = np.ones(len(boxes), bool)
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    columns = np.ascontiguousarray(boxes.T)
    for first in range(0, len(boxes), _ROWS):
        some, later = slice(first, first + _ROWS), slice(first, None)
        x1, y1 = (np.maximum(one[some, None], one[None, later]) for one in columns[:2])
        x2, y2 = (np.minimum(one[some, None], one[None, later]) for one in columns[2:])
        shared = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
        union = areas[some, None] + areas[None, later] - shared
        free = (shared <= overlap * union) | (ids[some, None] != ids[None, later])
        for row, others in enumerate(free):
            if left[first + row]:
                left[first + row + 1 :] &= others[row + 1 :]
    return np.flatnonzero(left)


def _metadata(values: Mapping[str, str], name: str) -> dict[str, Any]:
    missing = [key for key in _KEYS if key not in values]
    if missing:
        raise ModelError(
            f"{name}: its metadata has no {missing[0]!r}: not written by this project (common.export writes such files)"
        )
    try:
        return {key: json.loads(value) for key, value in values.items()}
    except ValueError:
        raise ModelError(f"{name}: its metadata is no JSON") from None


def _is_suppression(nms: Any) -> bool:
    """Whether the metadata `nms` is what `suppressed` takes; None: of a file that suppresses itself."""
    if nms is None:
        return True
    return (
        isinstance(nms, dict)
        and set(nms) <= {"overlap", "score", "candidates", "detections"}
        and all(isinstance(value, (int, float)) for value in nms.values())
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
