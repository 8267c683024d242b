"""A finished model, opened for use: from a job's log_dir or its `model.json` to something that predicts and is judged.

Jobs of version 1.2.0 left a card without the task and without a structure of how images are resized: both follow from
the names of its files.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from common.data.formats.base import Object
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.errors import DeviceError, ModelError
from common.evaluator import Evaluator
from common.files import read_file
from common.images.decoding import printable
from common.images.resize import Region, Resize
from common.predictor import Compute, Decoder, Predictor

if TYPE_CHECKING:
    from common.engine.onnx_inference import OnnxInference

MODEL_CARD = "model.json"
ENGINES = ("auto", "mxnet", "onnx")
_SCORE = 0.3  # of detectors of version 1.2.0, whose card has none
_MODEL = "a job's log_dir, its model.json or an ONNX file"
_CARD_LIMIT = 16 << 20  # bytes; a card of 10 000 classes has a hundredth of it


@dataclass(frozen=True)
class Kind:
    """What has to be known of a task to open a model of it. name: as in cards and checkpoints. does: the task's kind:
    detection, classification, reid or landmark.

    reading: "module:function" from a card to its `Reading`. prefix, resize: of cards of version 1.2.0.
    """

    name: str
    does: str
    reading: str
    prefix: str
    resize: Resize


KINDS = (
    Kind("yolov3", "detection", "detect.results:reading", "yolo3_", Resize("stretch")),
    Kind("ssd", "detection", "detect.results:reading", "ssd_", Resize("stretch")),
    Kind("centernet", "detection", "detect.results:reading", "center_net_", Resize("letterbox")),
    Kind(
        "classification",
        "classification",
        "classification.results:reading",
        "classifier_",
        Resize("centre_crop", 0.875),
    ),
    Kind("reid", "reid", "reid.results:reading", "reid_", Resize("stretch")),
    Kind("landmark", "landmark", "landmark.results:reading", "landmark_", Resize("stretch")),
)


@dataclass(frozen=True)
class Reading:
    """How a model's outputs are read and judged.

    region: the part of its image that a sample is. annotations: for the folder of a set the reader of annotations, and
    the labels of samples by the id that their annotation begins with. labels: a row of a result as annotations.
    """

    decoder: Decoder
    evaluator: Evaluator
    region: Callable[[Sample], Region | None]
    annotations: Callable[[Listing], tuple[Annotate, Sequence[str]]]
    labels: Callable[[dict[str, Any]], list[Object]]


@dataclass(frozen=True)
class Card:
    """A `model.json`. folder: where it and the model's files lie. content: as read, with the keys that 1.2.0 lacks.

    onnx: the ONNX file whose metadata the content is, where the model is one.
    """

    folder: Path
    content: Mapping[str, Any]
    kind: Kind
    onnx: Path | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.kind.name

    @property
    def classes(self) -> list[str]:
        """Names by id; none for keypoints."""
        return list(self.content["classes"])

    @property
    def score(self) -> float:
        """Least score of the objects that count: the best on the validation set, else as configured."""
        for key in ("best_thresh", "score_thresh"):
            if isinstance(self.content.get(key), (int, float)):
                return float(self.content[key])
        return _SCORE

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the input."""
        return int(self.content["input"]["width"]), int(self.content["input"]["height"])

    @property
    def resize(self) -> Resize:
        """How an image becomes the input."""
        return Resize.from_json(self.content["resize"])

    def file(self, key: str) -> Path:
        """The file that the card lists under `key` ("symbol", "params"). Raises ModelError where it is not there."""
        path = self.folder / self._listed(key)
        if not path.is_file():
            raise ModelError(
                f"{printable(str(path))} is missing; {MODEL_CARD} beside it lists it as the {key}"
            )
        return path

    def _listed(self, key: str) -> str:
        name = self.content.get(key)
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ModelError(
                f"{self.folder / MODEL_CARD}: {key} is {str(name)[:80]!r}; it must name a file beside it"
            )
        return name

    @property
    def graph(self) -> Path:
        """The graph that the result files were made with: with a look at the mirrored image, where that was asked."""
        flip = self.content.get("flip_test")
        if isinstance(flip, Mapping) and flip.get("symbol"):
            return Card(self.folder, flip, self.kind).file("symbol")
        return self.file("symbol")

    @property
    def name(self) -> str:
        """The model's name, with which its files begin. Raises ModelError where the card lists no symbol."""
        return self._listed("symbol").removesuffix("-symbol.json")

    def onnx_file(self) -> Path:
        """The ONNX file that gives what the result files were made of. Raises ModelError where there is none."""
        if self.onnx is not None:
            return self.onnx
        path = self.folder / f"{self.name}.onnx"
        if not path.is_file():
            known = self.content.get("onnx")
            entry = known.get("files", {}).get(path.name) if isinstance(known, Mapping) else None
            reason = entry.get("left_out") if isinstance(entry, Mapping) else None
            raise ModelError(
                f"{printable(str(path))} does not exist: "
                + (reason or "common.export MODEL --onnx writes it, where MXNet's files are there")
            )
        return path

    def reading(self) -> Reading:
        """How outputs are read and judged."""
        reading: Reading = resolve_name(self.kind.reading)(self.content)
        return reading


def read_card(model: Path) -> Card:
    """The card of `model`: a log_dir, its model.json, or an ONNX file with our metadata. Raises ModelError."""
    if model.suffix.lower() == ".onnx" and not model.is_dir():
        return _card_of_file(model)
    path = model / MODEL_CARD if model.is_dir() else model
    name = printable(str(path))
    if path.suffix != ".json" and path.exists():
        raise ModelError(f"{name}: MODEL is {_MODEL}")
    try:
        content = json.loads(read_file(str(path), _CARD_LIMIT).decode("utf-8"))
    except FileNotFoundError:
        reason = "no job has finished there" if model.is_dir() else f"MODEL is {_MODEL}"
        raise ModelError(f"{name} does not exist: {reason}") from None
    except OSError as error:
        raise ModelError(f"{name}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} is no model.json: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{name} is no model.json: it holds {type(content).__name__}, not an object")
    kind = _kind(content, name)
    if not isinstance(content.get("resize"), Mapping):
        content["resize"] = kind.resize.as_json()
    card = Card(path.parent, content, kind)
    try:
        usable = min(card.shape) > 0 and card.resize and all(isinstance(name, str) for name in card.classes)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"{name}: input, resize or classes are not those of a model.json ({error})"
        ) from None
    if not usable:
        raise ModelError(f"{name}: input and classes are not those of a model.json")
    return card


def open_predictor(card: Card, compute: Compute, reading: Reading) -> Predictor:
    """What predicts with the arithmetic `compute` as the card says."""
    return Predictor(card.resize, card.shape, compute, reading.decoder, reading.region)


def open_compute(card: Card, engine: str = "auto", gpus: Sequence[int] | None = None) -> Compute:
    """The arithmetic of a model's files. engine: of ENGINES; "auto": MXNet where it is installed.

    gpus: ids; none: the CPU; None: the first usable GPU, else the CPU. Raises ModelError, DeviceError.
    """
    if engine == "auto":
        engine = "mxnet" if card.onnx is None and importlib.util.find_spec("mxnet") else "onnx"
    if engine == "onnx":
        return _onnx_inference(card.onnx_file(), gpus)
    if card.onnx is not None:
        raise ModelError(f"--engine {engine}: {printable(str(card.onnx))} is ONNX; the engine for it is onnx")
    from common.engine.devices import best_gpus, check_gpus, contexts, load_mxnet, visible_gpus
    from common.engine.inference import symbol_inference

    chosen = best_gpus() if gpus is None else gpus
    check_gpus(chosen, visible_gpus(), remedy="--gpus none computes on the CPU")
    load_mxnet()
    return symbol_inference(card.graph, card.file("params"), contexts(chosen))


def _onnx_inference(path: Path, gpus: Sequence[int] | None = None) -> OnnxInference:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ModelError(f"{printable(str(path))} needs onnxruntime, which is not installed")
    from common.engine.onnx_inference import OnnxInference, usable_gpus

    if gpus and not usable_gpus():
        raise DeviceError("--gpus: the onnxruntime that is installed computes on the CPU alone")
    chosen = (0 if usable_gpus() else None) if gpus is None else next(iter(gpus), None)
    return OnnxInference(path, chosen)


def _card_of_file(path: Path) -> Card:
    """What an ONNX file says of itself, as a `model.json` says it. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{printable(str(path))} does not exist")
    inference = _onnx_inference(path, [])
    said = inference.metadata
    content = {
        **{key: value for key, value in said.items() if value is not None},
        "classes": said["names"],
        "symbol": f"{path.stem}-symbol.json",
        "input": {key: said[key] for key in ("width", "height", "mean", "std")},
        "outputs": [{"name": name, "shape": shape} for name, shape in inference.outputs.items()],
    }
    card = Card(path.parent, content, _kind(content, printable(str(path))), path)
    try:
        usable = min(card.shape) > 0 and card.resize and all(isinstance(name, str) for name in card.classes)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        usable = False
    if not usable:
        raise ModelError(f"{printable(str(path))}: its metadata is not that of a model of this project")
    outputs = inference.outputs
    by_class = outputs.get("probabilities", [] if "ids" in outputs else outputs.get("scores", []))
    if by_class and by_class[-1] != len(card.classes):
        raise ModelError(
            f"{printable(str(path))}: its {by_class[-1]} classes have {len(card.classes)} names in its metadata"
        )
    return card


def _kind(content: Mapping[str, Any], name: str) -> Kind:
    task, symbol = content.get("task"), str(content.get("symbol"))
    for kind in KINDS:
        if task == kind.name or (task is None and symbol.startswith(kind.prefix)):
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    if task is None:
        raise ModelError(f"{name} is no {MODEL_CARD}: it names no task; MODEL is {_MODEL}")
    raise ModelError(f"{name}: task is {str(task)[:80]!r}; known are {known}")
