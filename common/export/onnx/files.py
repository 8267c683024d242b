"""The ONNX files of an exported model: written, held against MXNet on real images, kept or left out with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from common.engine.onnx_inference import OnnxInference, readable
from common.engine.parameter_file import read_parameter_file
from common.engine.symbol import read_symbol
from common.errors import DataError
from common.export.onnx import heads
from common.export.onnx.graph import PLAIN_OPSET
from common.export.onnx.heads import Source, Suppression, Written
from common.export.onnx.merged import merged
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
# Images that a file is tried on alone, where all files of a model are on all images together.
_ALONE = 1

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
    head, raw = _HEADS[card.task], _RAW.get(card.task)
    files = [Kind("", head, MIRRORED if graphs(card)[MIRRORED] else PLAIN)]
    if raw:
        files.append(Kind("-raw", raw, files[0].graph))
    if files[0].graph == MIRRORED:
        files += [replace(each, suffix=f"-plain{each.suffix}", graph=PLAIN) for each in files]
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

    def first(self, count: int) -> Images:
        """So many of them at most, of one batch."""
        pixels, matrices = self.batches[0]
        return Images(self.names[:count], [(pixels[:count], matrices[:count])], self.shape)

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
    files = [_File(folder / f"{card.name}{kind.suffix}.onnx", kind) for kind in kinds(card)]
    with ThreadPoolExecutor(1) as aside:
        proof = _Proof(card, predictors, images, dict(known or {}), aside)
        for file in reversed(files):  # the raw ones, which are tried alone, first
            with _leaving_out(file):
                file.write(card, parameters, opset)
                proof.begin(file)
        del parameters
        written = [file for file in files if not file.reason]
        with _keeping(written):
            proof.end(written)
    left_out: dict[str, list[str]] = {}  # names of files by reason
    for file in files:
        if file.reason:
            file.path.unlink(missing_ok=True)  # of an earlier export
            left_out.setdefault(file.reason, []).append(file.path.name)
    paths = [file.path for file in files if not file.reason]
    names = [*card.content.get("files", []), *(path.name for path in paths)]
    content = {
        **card.content,
        "files": list(dict.fromkeys(names)),
        "onnx": {"files": {file.path.name: file.entry for file in files}},
    }
    write_json(folder / MODEL_CARD, content)
    return paths, [
        f"{', '.join(each)} {'is' if len(each) == 1 else 'are'} left out: {reason}"
        for reason, each in left_out.items()
    ]


@dataclass
class _File:
    """A file on its way. entry: what `model.json` says of it; reason: why it is left out."""

    path: Path
    kind: Kind
    content: bytes = b""
    suppression: Suppression | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def write(self, card: Card, parameters: Mapping[str, np.ndarray], opset: int | None) -> None:
        """Make the content."""
        written = self.kind.head(source(card, self.kind.graph, parameters), *([opset] if opset else []))
        model = written.model(metadata(card, written), str(card.content.get("version", "")))
        self.content = model.SerializeToString()
        self.entry["opset"] = written.graph.opset
        self.suppression = written.suppression

    def hold_against(
        self, card: Card, images: Images, wanted: Sequence[np.ndarray], exported: Sequence[np.ndarray]
    ) -> None:
        """Raises _DiffersError where predictions are not MXNet's."""
        thresh = card.content.get("score_thresh")
        overlap = _OVERLAP if self.suppression is None else self.suppression.overlap
        comparison = compare(card.task, images.names, wanted, exported, thresh, overlap)
        if comparison.differs:
            raise _DiffersError(f"predictions are not MXNet's: {comparison.differs}")
        self.entry.update(images=len(exported), largest_difference=comparison.largest)


class _DiffersError(Exception):
    """A file whose predictions are others."""


@contextmanager
def _leaving_out(*files: _File) -> Iterator[None]:
    """Whatever goes wrong is the reason why files are left out: the model that was trained is there without them."""
    try:
        yield
    except Exception as error:
        for file in files:
            file.reason = " ".join(str(error).split()) or type(error).__name__
            file.content, file.entry = b"", {"left_out": file.reason}


@contextmanager
def _keeping(files: Sequence[_File]) -> Iterator[None]:
    """Files are written beside their places while the block judges them, and take these when it has ended without an
    error; those that it leaves a reason stay out.

    Writing takes the disk, and the block takes the processors.
    """
    judged, complete = Event(), False

    def keep(file: _File) -> None:
        with _leaving_out(file), replacing(file.path) as target:
            target.write(file.content)
            target.flush()
            os.fsync(target.fileno())
            judged.wait()
            if file.reason or not complete:
                raise _DiffersError(file.reason)

    with ThreadPoolExecutor(max(len(files), 1)) as writers:
        try:
            for file in files:
                writers.submit(keep, file)
            yield
            complete = True
        finally:
            judged.set()


@dataclass(frozen=True)
class _Proof:
    """Files are held against MXNet.

    Computing is what takes the time, and files of a model compute much the same: `merged` does it once. What it changes
    of a file, other versions of operators, is why such a file is on a few images alone, too.

    wanted: MXNet's predictions by graph, as far as they are known. aside: does what leaves this thread free to go on.
    """

    card: Card
    predictors: Mapping[str, Predictor]
    images: Images
    wanted: dict[str, Sequence[np.ndarray]]
    aside: Executor

    def begin(self, file: _File) -> None:
        """Of a file that is written. Raises DataError."""
        if not self.images.names:
            raise DataError("no image can be read on which it could be proven")
        graph = file.kind.graph
        if graph not in self.wanted:
            self.wanted[graph] = self.images.predicted(self.predictors[graph])
        if file.entry["opset"] == PLAIN_OPSET and len(kinds(self.card)) > 1:
            self.aside.submit(self._alone, file, self.images.first(_ALONE), optimised=False)

    def end(self, files: Sequence[_File]) -> None:
        """Of all files that are written: those that compute something else get their reason."""
        if len(files) > 1:
            with suppress(Exception):  # one of them is no model that computes: each tells for itself
                together = self._together(files)
                for file, predictions in zip(files, together, strict=True):
                    if not file.reason:
                        with _leaving_out(file):
                            file.hold_against(
                                self.card, self.images, self.wanted[file.kind.graph], predictions
                            )
                return
        for file in files:
            if not file.reason:
                self._alone(file, self.images)

    def _alone(self, file: _File, images: Images, optimised: bool = True) -> None:
        with _leaving_out(file):
            graph = file.kind.graph
            inference = OnnxInference(file.content, optimised=optimised)
            predictions = images.predicted(replace(self.predictors[graph], compute=inference))
            file.hold_against(self.card, images, self.wanted[graph][: len(predictions)], predictions)

    def _together(self, files: Sequence[_File]) -> list[list[np.ndarray]]:
        """Predictions of each of several files, computed as one model; a batch is decoded as the next is computed."""
        model = merged([file.content for file in files])
        inference = OnnxInference(model.content, constants=model.constants)

        def decoded(values: Mapping[str, np.ndarray], matrices: np.ndarray) -> list[Sequence[np.ndarray]]:
            rows: list[Sequence[np.ndarray]] = []
            for file, names in zip(files, model.outputs, strict=True):
                own = {name: values[merged_name] for name, merged_name in names.items()}
                nms = asdict(file.suppression) if file.suppression else None
                decoder = self.predictors[file.kind.graph].decoder
                rows.append(decoder.predictions(readable(own, nms), matrices, self.images.shape))
            return rows

        batches = [
            self.aside.submit(decoded, inference.run(pixels), matrices)
            for pixels, matrices in self.images.batches
        ]
        return [list(chain(*rows)) for rows in zip(*(batch.result() for batch in batches), strict=True)]
