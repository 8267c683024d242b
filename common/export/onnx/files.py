"""The ONNX files of an exported model: written, held against MXNet on real images, kept or left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.engine.onnx_inference import OnnxInference
from common.engine.parameter_file import read_parameter_file
from common.engine.symbol import read_symbol
from common.export.onnx import heads
from common.export.onnx.heads import Source, Written
from common.export.onnx.proof import compare
from common.export.outputs import MODEL_CARD
from common.files import replacing, write_json
from common.loading.loader import Loader
from common.predictor import Predictor
from common.trained import Card, read_card

Head = Callable[..., Written]
"""From a `Source` and, unless it is the oldest that serves, a version of ONNX's operators."""

# Of the suppression that a graph has inside: near it, a detection may fall either way.
_OVERLAP = 0.45

# Of a model's graphs: the one of its symbol, and the one that looks at the mirrored image too.
PLAIN, MIRRORED = "symbol", "flip_test"


@dataclass(frozen=True)
class Kind:
    """An ONNX file of a model. suffix: behind the model's name; graph: what it is made of."""

    suffix: str
    head: Head
    graph: str = PLAIN


_HEADS: dict[str, Head] = {
    "classification": heads.classifier,
    "reid": heads.embedding,
    "landmark": heads.landmarks,
    "yolov3": heads.yolov3,
    "centernet": heads.detections,
    "ssd": heads.detections,
}
_RAW: dict[str, Head] = {
    "yolov3": heads.yolov3_raw,
    "centernet": heads.center_net_raw,
    "ssd": heads.ssd_raw,
}


def kinds(card: Card) -> list[Kind]:
    """The ONNX files of a model. Raises KeyError for a task that is not known."""
    head = _HEADS[card.task]
    mirrored = graphs(card)[MIRRORED]
    files = [Kind("", head, MIRRORED if mirrored else PLAIN)]
    if mirrored:
        files.append(Kind("-plain", head))
    if card.task in _RAW:
        files.append(Kind("-raw", _RAW[card.task]))
    return files


def graphs(card: Card) -> dict[str, str | None]:
    """File names of a model's graphs by what they are."""
    return {PLAIN: card.content["symbol"], MIRRORED: (card.content.get("flip_test") or {}).get("symbol")}


def deforms(card: Card) -> bool:
    """Whether a model has deformable convolutions."""
    symbol = read_symbol(card.file("symbol").read_text(encoding="utf-8"))
    return any(node.op == "_contrib_ModulatedDeformableConvolution" for node in symbol.nodes)


def metadata(card: Card, written: Written) -> dict[str, str]:
    """What an ONNX file says of itself: JSON texts by name."""
    given, content = card.content["input"], card.content
    values: dict[str, Any] = {
        "names": card.classes,
        "task": card.task,
        **{name: given[name] for name in ("width", "height", "mean", "std")},
        "resize": content["resize"],
        **{name: content.get(name) for name in ("score_thresh", "best_thresh", "version")},
        **{name: content[name] for name in ("iou_thresh", "average_precision") if name in content},
    }
    if written.suppression:
        values["nms"] = asdict(written.suppression)
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def source(card: Card, graph: str, parameters: Mapping[str, np.ndarray]) -> Source:
    """One of a model's graphs, to be written as ONNX."""
    text = (card.folder / str(graphs(card)[graph])).read_text(encoding="utf-8")
    return Source(read_symbol(text), parameters, *card.shape, len(card.classes))


@dataclass(frozen=True)
class Images:
    """Images that files are proven on. batches: images (B, H, W, 3) and matrices (B, 2, 3)."""

    names: Sequence[str]
    batches: Sequence[tuple[np.ndarray, np.ndarray]]
    shape: tuple[int, int]

    @classmethod
    def of(cls, loader: Loader, shape: tuple[int, int]) -> Images:
        """All of a loader's samples that can be read."""
        batches, names = [], []
        for batch in loader.epoch(0):
            rows = np.flatnonzero(batch.indices >= 0)
            names += [loader.samples[index].image for index in batch.indices[rows]]
            batches.append((batch.arrays["image"][rows], batch.arrays["matrix"][rows]))
        return cls(names, [batch for batch in batches if len(batch[0])], shape)

    def predicted(self, predictor: Predictor) -> list[np.ndarray]:
        """A prediction for each of them."""
        return [
            row
            for pixels, matrices in self.batches
            for row in predictor.decoder.predictions(predictor.compute(pixels), matrices, self.shape)
        ]


def export_onnx(
    folder: Path,
    predictors: Mapping[str, Predictor],
    images: Images,
    known: Mapping[str, Sequence[np.ndarray]] | None = None,
    opset: int | None = None,
) -> tuple[list[Path], list[str]]:
    """Write the ONNX files of the model in `folder`, and what is to be known of them into its `model.json`.

    predictors: MXNet's, by graph; images: on which files are held against them; known: MXNet's predictions of these
    images, by graph, where they are there already; opset: version of ONNX's operators, None: the oldest that serves.
    Returns the files that were written, and a line for each reason why some were not.
    """
    card = read_card(folder)
    parameters = read_parameter_file(card.file("params"))
    wanted: dict[str, Sequence[np.ndarray]] = dict(known or {})
    paths: list[Path] = []
    entries: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}  # names of files by reason
    for kind in kinds(card):
        path = folder / f"{card.name}{kind.suffix}.onnx"
        try:
            written = kind.head(source(card, kind.graph, parameters), *([opset] if opset else []))
            content = written.model(
                metadata(card, written), str(card.content.get("version", ""))
            ).SerializeToString()
            if kind.graph not in wanted:
                wanted[kind.graph] = images.predicted(predictors[kind.graph])
            predictions = images.predicted(replace(predictors[kind.graph], compute=OnnxInference(content)))
            comparison = compare(
                card.task,
                images.names,
                wanted[kind.graph],
                predictions,
                card.content.get("score_thresh"),
                written.suppression.overlap if written.suppression else _OVERLAP,
            )
            if comparison.differs:
                raise _Differs(f"predictions are not MXNet's: {comparison.differs}")
            with replacing(path) as file:
                file.write(content)
            paths.append(path)
            entries[path.name] = {
                "opset": written.graph.opset,
                "images": len(predictions),
                "largest_difference": comparison.largest,
            }
        except Exception as error:  # whatever it is, the model that was trained is there without it
            reason = " ".join(str(error).split()) or type(error).__name__
            path.unlink(missing_ok=True)
            entries[path.name] = {"left_out": reason}
            left_out.setdefault(reason, []).append(path.name)
    names = [*card.content.get("files", []), *(path.name for path in paths)]
    content = {
        **card.content,
        "files": list(dict.fromkeys(names)),
        "onnx": {"files": entries},
    }
    write_json(folder / MODEL_CARD, content)
    return paths, [
        f"{', '.join(files)} {'is' if len(files) == 1 else 'are'} left out: {reason}"
        for reason, files in left_out.items()
    ]


class _Differs(Exception):
    """A file whose predictions are others."""
